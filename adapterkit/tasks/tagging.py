"""Tagging: a tag for every word, such as named entities, slots or parts of speech."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.tokenizer import TextEncoder, truncate
from ..cjk import HAN
from ..errors import DataError
from ..metrics.base import Predictions, check_metrics
from ..metrics.entity_tags import OUTSIDE, entities_of, has_entities, split_tag
from ..metrics.per_class import confusion, per_class, per_entity
from ..schema import check_least, check_share, is_text
from .base import LEAST_TOKENS, Task
from .columns import Column
from .fields import FieldKind, Fields
from .foreign_head import ForeignHead
from .labels import check_labels, distinct_labels, known_labels, label_index
from .token_head import token_logits
from .types import (
    NOTHING,
    Answer,
    AnswerSummary,
    Decision,
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
"""A Chinese character, a run of other letters and digits, or a single sign."""


@dataclass(frozen=True)
class Words:
    """The words of one row.

    Attributes:
        text: The text that contains them.
        spans: First and past-the-last character of each.
        first_tokens: Sequence and index of each word's first token; None if it has no token.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    first_tokens: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class Tagging(Task):
    """One of C tags for each word, predicted at its first token (Devlin et al. 2019).

    Tags such as `B-PER` are read as entities, in the schemes of `metrics/entity_tags.py`. Words are
    given as a list, or as a text, which is split into words, signs and single Chinese characters.
    Long rows are read in windows.

    Attributes:
        dropout: Share of each token's hidden state that is dropped in training.
        max_length: Most tokens of a window. If omitted: as many as the backbone takes.
        stride: Tokens that neighbouring windows share, at most half of a window.
        labels: Tags in order. If omitted: the sorted tags of the training rows.
        extra_metrics: Further metrics, such as [strict_f1].
    """

    type: ClassVar[str] = "tagging"
    pipeline_tag: ClassVar[str | None] = "token-classification"
    peft_task_type: ClassVar[str | None] = "TOKEN_CLS"
    transformers_model: ClassVar[str | None] = "AutoModelForTokenClassification"
    foreign: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {
        "tokens": Column(FieldKind.TOKENS, "the words: a list, or words with blanks between them"),
        "tags": Column(FieldKind.TAGS, "the tag of each word, likewise", learned=True),
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
        check_least(self, LEAST_TOKENS, "max_length")
        check_share(self, "dropout")
        check_least(self, 0, "stride")

    @property  # the only task whose metric kind depends on its labels
    def metric_kind(self) -> str:  # type: ignore[override]  # an attribute of the class elsewhere
        """Metrics of whole entities if the tags have any, else of single tags."""
        return "entities" if has_entities(known_labels(self.labels)) else "tags"

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        labels = self.labels or distinct_labels(tag for row in rows for tag in row.fields["tags"])
        if len(labels) < 2:
            raise DataError(
                f"tagging needs at least two tags; the training rows only have {labels}"
            )
        try:
            return replace(self, labels=labels)
        except ValueError as error:  # a metric of entities may not exist for other tags
            raise DataError(f"task.{error}") from None

    @classmethod
    def from_head(cls, head: ForeignHead) -> Self:
        return cls(labels=head.label_names)

    def fields(self, request: Text, where: str) -> Fields:
        if is_text(request):
            text = FieldKind.TEXT.check(request, f"{where}: tokens")
            spans = [match.span() for match in WORD.finditer(text)]
            return {"tokens": tuple(text[a:b] for a, b in spans), "text": text, "spans": spans}
        if isinstance(request, Sequence):
            request = {"tokens": request}
        return super().fields(request, where)

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, Tagging) and self.labels == other.labels

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        n = len(known_labels(self.labels))
        return {"classifier.weight": (n, hidden), "classifier.bias": (n,)}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        found = []
        encodings = reader.encode([row["tokens"] for row in rows], words=True)
        for row, encoding in zip(rows, encodings, strict=True):
            sequences = truncate(encoding, limit, "windows", self.stride)
            first: dict[int, tuple[int, int]] = {}
            for number, inputs in enumerate(sequences):
                for token, index in enumerate(inputs.indices):
                    word = encoding.word_ids[index]
                    before = encoding.word_ids[index - 1] if index else None
                    if word is not None and word != before:
                        first.setdefault(word, (number, token))
            text, spans = _located(row)
            first_tokens = tuple(first.get(word) for word in range(len(spans)))
            found.append(Example(tuple(sequences), Words(text, spans, first_tokens)))
        return found

    def label_values(self, row: Row) -> Sequence[str | float]:
        """The kinds of the row's entities, and the tags outside entities."""
        tags = row.fields["tags"]
        others = [tag for tag in tags if _stands_alone(tag)]
        return [*(kind for kind, _, _ in entities_of(tags)), *others]

    def reworded(self, fields: Fields, reword: Reword) -> Fields:
        """Rewords word by word; a word is kept if it would become several, which have no tags."""
        text = " ".join(fields["tokens"])
        pairs = (
            (word, reword(word, f"{index} {text}")) for index, word in enumerate(fields["tokens"])
        )
        tokens = tuple(new if _is_no_longer(new, word) else word for word, new in pairs)
        return {**fields, "tokens": tokens}

    def target(self, row: Row, example: Example) -> tuple[Any, list[int]]:
        """The first token of each word, and the index of its tag."""
        tags, labels = row.fields["tags"], known_labels(self.labels)
        if len(tags) != len(row.fields["tokens"]):
            raise DataError(
                f"{row.where}: {len(row.fields['tokens'])} tokens and {len(tags)} tags; "
                "every token has one tag"
            )
        indices = [label_index(tag, labels, row.where, "tag") for tag in tags]
        return example.notes.first_tokens, indices

    def logits(self, inputs: HeadInput) -> Tensor:
        """`[t, C]`, for each token."""
        weight, bias = inputs.head["classifier.weight"], inputs.head["classifier.bias"]
        return token_logits(inputs, weight, bias, self.dropout)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy averaged over a row's words, `[n]`."""
        losses = []
        for row, (first_tokens, labels) in zip(outputs.rows(), targets, strict=True):
            pairs = zip(first_tokens, labels, strict=True)
            read = [(token, label) for token, label in pairs if token]
            if not read:  # no word of the row has a token, so there is nothing to learn
                losses.append(row[0].sum() * 0.0)
                continue
            logits = torch.stack([row[number][token] for (number, token), _ in read]).float()
            tags = torch.tensor([label for _, label in read], device=logits.device)
            losses.append(F.cross_entropy(logits, tags))
        return torch.stack(losses)

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"entities", "tags"}`: entities as `{entity_group, score, word, start, end}` with
        character positions, and the tag of every word."""
        found = []
        for row, example in zip(outputs.rows(), examples, strict=True):
            words: Words = example.notes
            tags, probabilities = self._tags(row, words.first_tokens)
            entities = []
            for kind, first, last in entities_of(tags):
                start, end = words.spans[first][0], words.spans[last - 1][1]
                entities.append(
                    {
                        "entity_group": kind,
                        "score": sum(probabilities[first:last]) / (last - first),
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

    def decision(self, answer: Answer) -> Decision:
        """The kinds of entities, and the score of the least sure entity."""
        entities = answer["entities"]
        kinds = dict.fromkeys(one["entity_group"] for one in entities)
        return Decision(tuple(kinds), min((one["score"] for one in entities), default=None))

    @property
    def entity_kinds(self) -> tuple[str, ...]:
        parts = map(split_tag, known_labels(self.labels))
        return tuple(dict.fromkeys(part[1] for part in parts if part is not None))

    def scores(self, outputs: Outputs, example: Example) -> Iterator[Score]:
        """For each entity, and each tag outside entities, the mean logit of its words' tags. They
        come one by one, because each has a weight for every token of the row."""
        (row,), words = outputs.rows(), example.notes
        tags, labels = self._tags(row, words.first_tokens)[0], known_labels(self.labels)
        others = [(t, n, n + 1) for n, t in enumerate(tags) if _stands_alone(t)]
        before = [0, *accumulate(outputs.counts[0])]
        for kind, first, last in sorted([*entities_of(tags), *others], key=lambda one: one[1]):
            weights = torch.zeros_like(outputs.logits)
            pairs = zip(words.first_tokens[first:last], tags[first:last], strict=True)
            read = [(place, tag) for place, tag in pairs if place is not None]
            for (sequence, token), tag in read:
                weights[before[sequence] + token, labels.index(tag)] = 1.0
            span = slice(words.spans[first][0], words.spans[last - 1][1])
            yield Score(f"{words.text[span]} ({kind})", weights / len(read))

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        text, spans = _located(row)

        def at(word: int, start: int, end: int) -> tuple[int, int]:
            return spans[word][0] + start, spans[word][0] + end

        return [(Part("tokens", text, at),)]

    def to_hf_pipeline(self, answer: Answer) -> Any:
        return answer["entities"]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """Each row's tags."""
        labels, predicted, references = known_labels(self.labels), [], []
        for row, (first_tokens, tags) in zip(outputs.rows(), targets, strict=True):
            predicted.append(self._tags(row, first_tokens)[0])
            references.append([labels[tag] for tag in tags])
        return Predictions(predicted, references)

    def report(self, predictions: Predictions) -> dict[str, Any]:
        """As in `Task`; the matrix counts words by tag, or by the kind of their entity."""
        predicted, references = (
            list(chain(*rows)) for rows in (predictions.predicted, predictions.references)
        )
        tags = known_labels(self.labels)
        if self.metric_kind == "entities":
            table = per_entity(predictions)
            tags = tuple(
                sorted({_kind(tag) for tag in tags}, key=lambda kind: (kind == OUTSIDE, kind))
            )
            predicted, references = [*map(_kind, predicted)], [*map(_kind, references)]
        else:
            table = per_class(tags, tags, predicted, references)
        numbers = {tag: number for number, tag in enumerate(tags)}
        indices = (np.array([numbers[tag] for tag in one]) for one in (predicted, references))
        matrix = confusion(Predictions(*indices))
        return {"per_class": table, "labels": list(tags), "confusion": matrix}

    def _tags(
        self, row: Sequence[Tensor], first_tokens: Sequence[tuple[int, int] | None]
    ) -> tuple[list[str], list[float]]:
        """The tag of every word and its probability. A word without a token has the tag `O`, or
        continues the entity that the words around it belong to."""
        labels, tags, probabilities = known_labels(self.labels), [], []
        best = [part.float().softmax(-1).max(-1) for part in row]
        for first in first_tokens:
            if first is None:
                tags.append(OUTSIDE)
                probabilities.append(1.0)
                continue
            number, token = first
            tags.append(labels[int(best[number].indices[token])])
            probabilities.append(float(best[number].values[token]))
        read = [index for index, first in enumerate(first_tokens) if first is not None]
        for left, right in pairwise(read):
            if right > left + 1 and (kind := _common_entity(tags[left], tags[right])):
                inside = next((label for label in labels if split_tag(label) == ("I", kind)), None)
                tags[left + 1 : right] = [inside or f"I-{kind}"] * (right - left - 1)
        return tags, probabilities


def _common_entity(left: str, right: str) -> str | None:
    """The kind of the entity that two tags in succession belong to; None if there is none."""
    entities = entities_of([left, right])
    return entities[0][0] if [(first, end) for _, first, end in entities] == [(0, 2)] else None


def _is_no_longer(word: str, other: str) -> bool:
    """Whether a replacement is one word with no more signs and Chinese characters than another."""
    return len(word.split()) == 1 and len(WORD.findall(word)) <= max(1, len(WORD.findall(other)))


def _kind(tag: str) -> str:
    """The kind of the entity that a word with a tag is in; a tag outside entities as it is."""
    part = split_tag(tag)
    return tag if part is None else part[1]


def _stands_alone(tag: str) -> bool:
    """Whether a tag has a meaning of its own: neither outside nor part of an entity."""
    return tag != OUTSIDE and split_tag(tag) is None


def _located(row: Fields) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text that contains the words, and their characters in it: the text of the request, or
    the words joined by single spaces."""
    if "spans" in row:
        return row["text"], tuple(row["spans"])
    spans, start = [], 0
    for word in row["tokens"]:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(row["tokens"]), tuple(spans)
