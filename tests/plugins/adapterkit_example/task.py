"""Stance detection: the attitude of a text to a topic, which stands in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from adapterkit import Column, FieldKind
from adapterkit.backbone.tokenizer import TextEncoder
from adapterkit.errors import DataError
from adapterkit.tasks.fields import TEXT, Fields
from adapterkit.tasks.single_label import SingleLabelTask
from adapterkit.tasks.types import Answer, AnswerSummary, Example

LONGEST = 40


def check_topic(value: Any, where: str) -> str:
    """A topic: a text of at most `LONGEST` characters, without its hash sign."""
    topic = str(TEXT.check(value, where)).removeprefix("#")
    if len(topic) > LONGEST:
        raise DataError(f"{where}: expected at most {LONGEST} characters, got {len(topic)}")
    return topic


TOPIC = FieldKind("topic", check_topic)


@dataclass(frozen=True)
class Stance(SingleLabelTask):
    """One label for a text and a topic, which are read as a pair."""

    type: ClassVar[str] = "stance"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(TEXT, "the text"),
        "topic": Column(TOPIC, "the topic, such as #vaccines", name="hashtag"),
        "author": Column(TEXT, "who wrote the text", required=False),
        "label": SingleLabelTask.columns["label"],
    }

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        topics = [" ".join([row["topic"], row.get("author", "")]).strip() for row in rows]
        encodings = reader.encode(topics, [row["text"] for row in rows])
        return [self.example(*pair, limit) for pair in zip(rows, encodings, strict=True)]

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(f"is {answer['label']}", answer["score"])
