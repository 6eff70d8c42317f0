"""The values that tasks take and return: rows, examples, outputs, answers, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backbone.packing import EncoderOutput, TokenSequence
from ..ops.dropout import Dropout
from .fields import Fields

Answer = dict[str, Any]


NOTHING = "(none)"
"""Text of an empty answer: no label, no entity."""


class AnswerSummary(NamedTuple):
    """One line about an answer.

    Attributes:
        text: The answer in a few words.
        score: Its score; None if it has none.
    """

    text: str
    score: float | None = None


ANSWERED = "(answered)"
"""Label of an answer that is not one of the adapter's labels, such as a span of a text."""


class Decision(NamedTuple):
    """What is counted of an answer.

    Attributes:
        labels: Its distinct labels; none if the adapter abstained.
        confidence: Its score, from 0 to 1; None if it has none.
    """

    labels: tuple[str, ...]
    confidence: float | None


def vector_summary(vector: Sequence[float]) -> AnswerSummary:
    """The first numbers of a vector, and how many it has."""
    return AnswerSummary(f"[{', '.join(f'{x:.3f}' for x in vector[:3])}, ... {len(vector)}]")


Text = str | Sequence[Any] | Mapping[str, Any]
"""A request: a text, several texts in the order of the task's columns, or values by role."""


def n_characters(request: Any) -> int:
    """Number of characters of a request, which may have any form. Each item of a list counts one
    more, so that the number also limits the items."""
    total, waiting = 0, [request]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            total += len(value)
            waiting += value
        else:
            total += len(str(value))
    return total


Reword = Callable[[str, str], str]
"""From a text and a key that the choice depends on, to the text with some words replaced."""


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    Attributes:
        fields: Values by role (`text`, `text_pair`, `label`).
        where: File and row, for error messages.
    """

    fields: Fields
    where: str


@dataclass(frozen=True)
class Example:
    """One tokenised row.

    Attributes:
        inputs: Its sequences; several if a long text is read in windows, or a row has choices.
        notes: What the task needs besides to turn outputs into answers, such as the positions of
            words.
    """

    inputs: tuple[TokenSequence, ...]
    notes: Any = None

    @property
    def truncated(self) -> bool:
        """Whether a part of the row was cut off."""
        return any(inputs.truncated for inputs in self.inputs)


@dataclass(frozen=True)
class HeadInput:
    """An adapter's part of an encoded batch, for its head.

    Attributes:
        head: The head's tensors.
        encoded: The batch.
        span: First and past-the-last of the adapter's packed sequences.
        dropout: Draws dropout; None outside training.
    """

    head: dict[str, Tensor]
    encoded: EncoderOutput
    span: tuple[int, int]
    dropout: Dropout | None = None


@dataclass(frozen=True)
class Outputs:
    """What a task's head returned for some rows.

    Attributes:
        logits: `[t, C]`, row after row: logits of each sequence, or of each token.
        counts: For each row, the number of logits vectors of each of its sequences.
    """

    logits: Tensor
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Tensor]]) -> Outputs:
        """Returns the outputs of rows, each a list of the logits `[t, C]` of its sequences."""
        counts = tuple(tuple(len(part) for part in row) for row in rows)
        return cls(torch.cat([part for row in rows for part in row]), counts)

    def rows(self) -> list[tuple[Tensor, ...]]:
        """For each row the logits `[t, C]` of its sequences."""
        parts = iter(self.logits.split([n for row in self.counts for n in row]))
        return [tuple(next(parts) for _ in row) for row in self.counts]

    def means(self) -> Tensor:
        """Mean logits of each row over its sequences, `[n, C]`: one answer for all windows."""
        if all(row == (1,) for row in self.counts):
            return self.logits
        sizes = [sum(row) for row in self.counts]
        return torch.stack([part.mean(0) for part in self.logits.split(sizes)])


@dataclass(frozen=True)
class Score:
    """The number behind an answer: a weighted sum of a row's logits and an offset.

    Attributes:
        name: What it stands for, such as the label.
        weights: Weight of every logit, `[t, C]`.
        offset: The offset.
    """

    name: str
    weights: Tensor
    offset: float = 0.0


@dataclass(frozen=True)
class Part:
    """One text of a tokenised sequence.

    Attributes:
        role: Its role in the row.
        text: The text of the request.
        at: From the tokenizer's number of a word and a span of characters in what was tokenised,
            to the span in `text`; None for characters that the task inserted.
    """

    role: str
    text: str
    at: Callable[[int, int, int], tuple[int, int] | None] = lambda word, start, end: (start, end)
