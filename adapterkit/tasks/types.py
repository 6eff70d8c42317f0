"""What goes through a task: rows, examples, outputs, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backbone.packing import EncoderOutput, TokenSequence
from ..ops.dropout import Dropout
from .fields import Fields

Tensors = dict[str, Tensor]


Answer = dict[str, Any]


NOTHING = "(none)"
"""Summary of an answer that says that there is nothing: no label, no entity."""


class AnswerSummary(NamedTuple):
    """An answer in one line, for people.

    Attributes:
        text: The answer in a few words.
        score: Its score; None if it has none.
    """

    text: str
    score: float | None = None


def vector_summary(vector: Sequence[float]) -> AnswerSummary:
    """The first numbers of a vector, and how many it has."""
    return AnswerSummary(f"[{', '.join(f'{x:.3f}' for x in vector[:3])}, ... {len(vector)}]")


Text = str | Sequence[Any] | Mapping[str, Any]
"""What is asked: a text, several texts in the order of the task's roles, or values by role."""


Reword = Callable[[str, str], str]
"""From a text, and what else a draw hangs on, to the text with other words."""


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    Attributes:
        fields: Values by role (`text`, `text_pair`, `label`).
        where: File and row, for messages.
    """

    fields: Fields
    where: str


@dataclass(frozen=True)
class Example:
    """One row as the backbone reads it.

    Attributes:
        inputs: Its sequences; several where a long text has windows or a question has choices.
        notes: What the task needs to turn outputs into answers (words, character positions).
    """

    inputs: tuple[TokenSequence, ...]
    notes: Any = None

    @property
    def truncated(self) -> bool:
        """Whether a part of the row is not read at all."""
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

    head: Tensors
    encoded: EncoderOutput
    span: tuple[int, int]
    dropout: Dropout | None = None


@dataclass(frozen=True)
class Outputs:
    """What a task's head said of some rows.

    Attributes:
        lines: Raw scores, `[t, C]`: a line a sequence, or a line a token, row after row.
        counts: For each row, the lines of each of its sequences.
    """

    lines: Tensor
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Tensor]]) -> Outputs:
        """Outputs from each row's sequences, `[lines, C]` each."""
        counts = tuple(tuple(len(part) for part in row) for row in rows)
        return cls(torch.cat([part for row in rows for part in row]), counts)

    def rows(self) -> list[tuple[Tensor, ...]]:
        """Each row's sequences, `[lines, C]` each."""
        parts = iter(self.lines.split([n for row in self.counts for n in row]))
        return [tuple(next(parts) for _ in row) for row in self.counts]

    def means(self) -> Tensor:
        """The mean of each row's lines, `[n, C]`: how windows of one text agree on an answer."""
        if all(row == (1,) for row in self.counts):
            return self.lines
        sizes = [sum(row) for row in self.counts]
        return torch.stack([part.mean(0) for part in self.lines.split(sizes)])


@dataclass(frozen=True)
class Score:
    """A number behind an answer: a weighted sum of the lines that a row's head says.

    Attributes:
        name: What it speaks for, such as the label.
        weights: Weight of every raw score, `[t, C]` as the row's lines.
        offset: What is added.
    """

    name: str
    weights: Tensor
    offset: float = 0.0


@dataclass(frozen=True)
class Part:
    """One text that the tokenizer reads of a row.

    Attributes:
        role: The role it has in the row.
        text: The text as it was asked.
        at: From a word of the tokenizer's and characters it counted, to characters of `text`; None
            where the task put them in.
    """

    role: str
    text: str
    at: Callable[[int, int, int], tuple[int, int] | None] = lambda word, start, end: (start, end)
