"""Stance detection: the attitude of a text to a topic, which stands in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from adapterkit import AnswerSummary, Column, DataError, FieldKind, Part, SingleLabelTask

LONGEST = 40


def check_topic(value: Any, where: str) -> str:
    """A topic: a text of at most `LONGEST` characters, without its hash sign."""
    topic = str(FieldKind.TEXT.check(value, where)).removeprefix("#")
    if len(topic) > LONGEST:
        raise DataError(f"{where}: expected at most {LONGEST} characters, got {len(topic)}")
    return topic


TOPIC = FieldKind("topic", check_topic)


@dataclass(frozen=True)
class Stance(SingleLabelTask):
    """One label for a text and a topic, which are read as a pair."""

    type: ClassVar[str] = "stance"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(FieldKind.TEXT, "the text"),
        "topic": Column(TOPIC, "the topic, such as #vaccines", name="hashtag"),
        "author": Column(FieldKind.TEXT, "who wrote the text", required=False),
        "label": SingleLabelTask.columns["label"],
    }
    augmentable: ClassVar[tuple[str, ...]] = ("text",)
    main_metric: ClassVar[str] = "cohen_kappa"
    sample_rows: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"text": "the bank is good", "topic": "#tea", "author": "me", "label": "for"},
        {"text": "rain and rain", "topic": "#tea", "author": "you", "label": "against"},
    )

    def parts(self, row: Mapping[str, Any]) -> list[tuple[Part, ...]]:
        topic = " ".join([row["topic"], row.get("author", "")]).strip()
        return [(Part("topic", topic), Part("text", row["text"]))]

    def summary(self, answer: dict[str, Any]) -> AnswerSummary:
        return AnswerSummary(f"is {answer['label']}", answer["score"])
