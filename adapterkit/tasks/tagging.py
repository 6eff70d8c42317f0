"""Tagging: a tag for every word, such as named entities, slots or parts of speech."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.tokenizer import TextEncoder, truncate
from ..cjk import HAN
from ..errors import DataError, did_you_mean
from ..metrics.base import Predictions, check_metrics
from ..metrics.bio import OUTSIDE, entities_of, has_entities
from ..metrics.per_class import per_class, per_entity
from ..schema import check_least, check_share, is_text
from .base import Task, token_logits
from .columns import Column
from .fields import TEXT, TOKENS, Fields
from .pooled import check_labels, known_labels
from .types import (
    NOTHING,
    Answer,
    AnswerSummary,
    Example,
    HeadInput,
    Outputs,
    Part,
    Reword,
    Row,
    Score,
    Text,
)

WORD = re.compile(rf"[{HAN}]|[^\W{HAN}]+|[^\w\s]")
"""A Chinese character, a run of other letters and digits, or one sign."""


@dataclass(frozen=True)
class Words:
    """The words of one row.

    Attributes:
        text: What they stand in.
        spans: First and past-the-last character of each.
        places: Sequence and line of each word's first token; None where it has no token.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    places: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class Tagging(Task):
    """One of C tags for each word, said at its first token (Devlin et al. 2019).

    Tags that begin with `B-` and `I-` are read as entities (BIO). Words are given as a list, or as
    a text that is cut into words, signs and single Chinese characters. Long rows are read in
    windows.

    Attributes:
        dropout: Share of each token's hidden state dropped in training.
        max_length: Most tokens of a window; as many as the backbone takes where left out.
        stride: Tokens that neighbouring windows share, at most half of a window.
        labels: Tags in order; the sorted tags of the training rows where left out.
        extra_metrics: Metrics to tell besides the task's own, such as [strict_f1].
    """

    type: ClassVar[str] = "tagging"
    peft_task_type: ClassVar[str | None] = "TOKEN_CLS"
    columns: ClassVar[Mapping[str, Column]] = {
        "tokens": Column(TOKENS, "the words: a list, or words with blanks between them"),
        "tags": Column(TOKENS, "the tag of each word, likewise", learned=True),
    }
    augmentable: ClassVar[tuple[str, ...]] = ("tokens",)
    per_token: ClassVar[bool] = True
    main_metric: ClassVar[str] = "f1"
    document_role: ClassVar[str] = "tokens"

    dropout: float = 0.1
    max_length: int | None = None
    stride: int = 32
    labels: tuple[str, ...] | None = None
    extra_metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.labels)
        open_yet = ("entities", "tags") if self.labels is None else (self.metric_kind,)
        check_metrics(open_yet, self.extra_metrics)
        check_share(self, "dropout")
        check_least(self, 0, "stride")

    @property  # of all tasks the only one whose kind depends on its labels
    def metric_kind(self) -> str:  # type: ignore[override]
        """Whole entities are judged where tags are BIO, else single tags."""
        return "entities" if has_entities(known_labels(self.labels)) else "tags"

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        labels = self.labels or tuple(sorted({tag for row in rows for tag in row.fields["tags"]}))
        if len(labels) < 2:
            raise DataError(
                f"tagging needs at least two tags; the training rows only have {labels}"
            )
        try:
            return replace(self, labels=labels)
        except ValueError as error:  # what suits entities may not suit other tags
            raise DataError(f"task.{error}") from None

    def fields(self, asked: Text, where: str) -> Fields:
        if is_text(asked):
            text = TEXT.check(asked, f"{where}: tokens")
            spans = [match.span() for match in WORD.finditer(text)]
            return {"tokens": tuple(text[a:b] for a, b in spans), "text": text, "spans": spans}
        if isinstance(asked, Sequence):
            asked = {"tokens": asked}
        return super().fields(asked, where)

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, Tagging) and self.labels == other.labels

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        n = len(known_labels(self.labels))
        return {"classifier.weight": (n, hidden), "classifier.bias": (n,)}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        found = []
        read = reader.encode([row["tokens"] for row in rows], words=True)
        for row, encoding in zip(rows, read, strict=True):
            sequences = truncate(encoding, limit, "windows", self.stride)
            first: dict[int, tuple[int, int]] = {}
            for number, inputs in enumerate(sequences):
                kept = inputs.kept or range(len(inputs))
                for line, place in enumerate(kept):
                    word = encoding.word_ids[place]
                    before = encoding.word_ids[place - 1] if place else None
                    if word is not None and word != before:
                        first.setdefault(word, (number, line))
            text, spans = _standing(row)
            places = tuple(first.get(word) for word in range(len(spans)))
            found.append(Example(tuple(sequences), Words(text, spans, places)))
        return found

    def label_values(self, row: Row) -> Sequence[str | float]:
        """The kinds of its entities, and the tags that are part of none."""
        tags = row.fields["tags"]
        others = [tag for tag in tags if _stands_alone(tag)]
        return [*(kind for kind, _, _ in entities_of(tags)), *others]

    def reworded(self, fields: Fields, reword: Reword) -> Fields:
        """Word by word: one that would become several keeps its place, and stays."""
        line = " ".join(fields["tokens"])
        pairs = (
            (word, reword(word, f"{place} {line}")) for place, word in enumerate(fields["tokens"])
        )
        tokens = tuple(new if _is_no_longer(new, word) else word for word, new in pairs)
        return {**fields, "tokens": tokens}

    def target(self, row: Row, example: Example) -> tuple[Any, list[int]]:
        """Where each word is said, and its tag."""
        tags, labels = row.fields["tags"], known_labels(self.labels)
        if len(tags) != len(row.fields["tokens"]):
            raise DataError(
                f"{row.where}: {len(row.fields['tokens'])} tokens and {len(tags)} tags; "
                "every token has one tag"
            )
        for tag in tags:
            if tag not in labels:
                raise DataError(
                    f"{row.where}: tag '{tag}' is not one this task was trained on; "
                    f"{did_you_mean(tag, labels)}"
                )
        return example.notes.places, [labels.index(tag) for tag in tags]

    def logits(self, inputs: HeadInput) -> Tensor:
        """`[t, C]`, a line for each token."""
        weight, bias = inputs.head["classifier.weight"], inputs.head["classifier.bias"]
        return token_logits(inputs, weight, bias, self.dropout)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy averaged over a row's words, `[n]`."""
        losses = []
        for row, (places, goal) in zip(outputs.rows(), targets, strict=True):
            seen = [(place, tag) for place, tag in zip(places, goal, strict=True) if place]
            if not seen:  # a row without a single known token teaches nothing
                losses.append(row[0].sum() * 0.0)
                continue
            lines = torch.stack([row[number][line] for (number, line), _ in seen]).float()
            tags = torch.tensor([tag for _, tag in seen], device=lines.device)
            losses.append(F.cross_entropy(lines, tags))
        return torch.stack(losses)

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"entities", "tags"}`: entities as `{entity_group, score, word, start, end}` with
        character positions, and the tag of every word."""
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            words: Words = example.notes
            tags, chances = self._said(row, words.places)
            entities = []
            for kind, first, last in entities_of(tags):
                start, end = words.spans[first][0], words.spans[last - 1][1]
                entities.append(
                    {
                        "entity_group": kind,
                        "score": sum(chances[first:last]) / (last - first),
                        "word": words.text[start:end],
                        "start": start,
                        "end": end,
                    }
                )
            found.append({"entities": entities, "tags": tags})
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        found = [f"{one['word']} ({one['entity_group']})" for one in answer["entities"]]
        return AnswerSummary(", ".join(found) or NOTHING)

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """For each entity, and each tag that is part of none, the mean logit of its words' tags."""
        (row,), words = outputs.rows(), example.notes
        tags, labels = self._said(row, words.places)[0], known_labels(self.labels)
        others = [(t, n, n + 1) for n, t in enumerate(tags) if _stands_alone(t)]
        before = [0, *accumulate(outputs.counts[0])]
        found = []
        for kind, first, last in sorted([*entities_of(tags), *others], key=lambda one: one[1]):
            weights = torch.zeros_like(outputs.lines)
            for place, tag in zip(words.places[first:last], tags[first:last], strict=True):
                weights[before[place[0]] + place[1], labels.index(tag)] = 1.0
            span = slice(words.spans[first][0], words.spans[last - 1][1])
            found.append(Score(f"{words.text[span]} ({kind})", weights / (last - first)))
        return found

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        text, spans = _standing(row)

        def at(word: int, start: int, end: int) -> tuple[int, int]:
            return spans[word][0] + start, spans[word][0] + end

        return [(Part("tokens", text, at),)]

    def to_hf_pipeline(self, answer: Answer) -> Any:
        return answer["entities"]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """Each row's tags."""
        labels, said, goal = known_labels(self.labels), [], []
        for row, (places, tags) in zip(outputs.rows(), targets, strict=True):
            said.append(self._said(row, places)[0])
            goal.append([labels[tag] for tag in tags])
        return Predictions(said, goal)

    def report(self, predictions: Predictions) -> dict[str, Any]:
        if self.metric_kind == "entities":
            return {"per_class": per_entity(predictions)}
        tags = known_labels(self.labels)
        said, goal = (
            list(chain(*rows)) for rows in (predictions.predicted, predictions.references)
        )
        return {"per_class": per_class(tags, tags, said, goal)}

    def _said(
        self, row: Sequence[Tensor], places: Sequence[tuple[int, int] | None]
    ) -> tuple[list[str], list[float]]:
        """The tag of every word and its probability; a word without a token is outside."""
        labels, tags, chances = known_labels(self.labels), [], []
        likely = [part.float().softmax(-1).max(-1) for part in row]
        for place in places:
            if place is None:
                tags.append(OUTSIDE)
                chances.append(1.0)
                continue
            number, line = place
            tags.append(labels[int(likely[number].indices[line])])
            chances.append(float(likely[number].values[line]))
        return tags, chances


def _is_no_longer(word: str, other: str) -> bool:
    """Whether a word is one, and has no more signs and Chinese characters than another."""
    return len(word.split()) == 1 and len(WORD.findall(word)) <= max(1, len(WORD.findall(other)))


def _stands_alone(tag: str) -> bool:
    """Whether a tag says something by itself, not as part of an entity."""
    return tag != OUTSIDE and not tag.startswith(("B-", "I-"))


def _standing(row: Fields) -> tuple[str, tuple[tuple[int, int], ...]]:
    """What the words stand in, and where: their own text, or all of them with single spaces."""
    if "spans" in row:
        return row["text"], tuple(row["spans"])
    spans, start = [], 0
    for word in row["tokens"]:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(row["tokens"]), tuple(spans)
