"""Tagging: a tag for every word, such as named entities, slots or parts of speech."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Encoded, Pooling
from ..errors import DataError, did_you_mean
from ..fields import Fields, check_field
from ..ops import Noise
from ..pooled import check_labels, known_labels
from ..sections import is_text
from ..task import Answer, Example, Outputs, Row, Task, Tensors, Text, token_logits
from ..tokens import Reader, cut

WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+|[^\w\s]")
"""A Chinese character, a run of other letters and digits, or one sign."""


OUTSIDE = "O"


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
        stride: Tokens that neighbouring windows share.
        labels: Tags in order; the sorted tags of the training rows where left out.
    """

    type: ClassVar[str] = "tagging"
    peft_task_type: ClassVar[str | None] = "TOKEN_CLS"
    reads: ClassVar[Mapping[str, str]] = {"tokens": "tokens"}
    learns: ClassVar[Mapping[str, str]] = {"tags": "tokens"}
    per_token: ClassVar[bool] = True
    main_metric: ClassVar[str] = "f1"

    dropout: float = 0.1
    max_length: int | None = None
    stride: int = 32
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: expected 0 or more and less than 1, got {self.dropout}")

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        labels = self.labels or tuple(sorted({tag for row in rows for tag in row.fields["tags"]}))
        if len(labels) < 2:
            raise DataError(
                f"tagging needs at least two tags; the training rows only have {labels}"
            )
        return replace(self, labels=labels)

    def fields(self, asked: Text, where: str) -> Fields:
        if is_text(asked):
            text = check_field("text", asked, f"{where}: tokens")
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

    def examples(self, rows: Sequence[Fields], reader: Reader, limit: int) -> list[Example]:
        found = []
        read = reader.read([row["tokens"] for row in rows], words=True)
        for row, encoding in zip(rows, read, strict=True):
            sequences = cut(encoding, limit, "windows", self.stride)
            first: dict[int, tuple[int, int]] = {}
            for number, inputs in enumerate(sequences):
                kept = inputs.places or range(len(inputs))
                for line, place in enumerate(kept):
                    word = encoding.word_ids[place]
                    before = encoding.word_ids[place - 1] if place else None
                    if word is not None and word != before:
                        first.setdefault(word, (number, line))
            text, spans = _standing(row)
            places = tuple(first.get(word) for word in range(len(spans)))
            found.append(Example(tuple(sequences), Words(text, spans, places)))
        return found

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

    def logits(
        self, head: Tensors, encoded: Encoded, span: tuple[int, int], noise: Noise | None
    ) -> Tensor:
        """`[t, C]`, a line for each token."""
        weight, bias = head["classifier.weight"], head["classifier.bias"]
        return token_logits(weight, bias, encoded, span, noise, self.dropout)

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

    def metrics(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> dict[str, float]:
        """F1, precision and recall over whole entities as CoNLL counts them, and the share of right
        tags; without BIO tags F1 is that of the tags, averaged over those that occur."""
        labels = known_labels(self.labels)
        said, goal = [], []
        for row, (places, tags) in zip(outputs.rows(), targets, strict=True):
            said.append(self._said(row, places)[0])
            goal.append([labels[tag] for tag in tags])
        flat = list(zip(chain(*said), chain(*goal), strict=True))
        accuracy = sum(a == b for a, b in flat) / len(flat)
        if not any(tag.startswith(("B-", "I-")) for tag in labels):
            from sklearn.metrics import f1_score

            ours, theirs = [a for a, _ in flat], [b for _, b in flat]
            f1 = float(f1_score(theirs, ours, average="macro", zero_division=0))
            return {"f1": f1, "accuracy": accuracy}
        found = {(n, *entity) for n, tags in enumerate(said) for entity in entities_of(tags)}
        real = {(n, *entity) for n, tags in enumerate(goal) for entity in entities_of(tags)}
        right = len(found & real)
        return {
            "f1": 2 * right / max(1, len(found) + len(real)),
            "precision": right / max(1, len(found)),
            "recall": right / max(1, len(real)),
            "accuracy": accuracy,
        }

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


def entities_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Kind, first and past-the-last word of each entity in BIO tags.

    As CoNLL's own script counts: `I-` after another kind, or after nothing, begins an entity too.
    """
    found, begun = [], None
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, kind = tag.partition("-")
        goes_on = begun is not None and mark == "I" and kind == begun[0]
        if begun is not None and not goes_on:
            found.append((begun[0], begun[1], place))
            begun = None
        if not goes_on and mark in ("B", "I") and kind:
            begun = (kind, place)
    return found


def _standing(row: Fields) -> tuple[str, tuple[tuple[int, int], ...]]:
    """What the words stand in, and where: their own text, or all of them with single spaces."""
    if "spans" in row:
        return row["text"], tuple(row["spans"])
    spans, start = [], 0
    for word in row["tokens"]:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(row["tokens"]), tuple(spans)
