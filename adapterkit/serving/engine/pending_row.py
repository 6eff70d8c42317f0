"""Rows of which single sequences are computed, in any batches; the last one gives the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from threading import Lock
from typing import TypeVar

from torch import Tensor

from ...adapter.adapter import Adapter
from ...backbone.packing import TokenSequence
from ...errors import AdapterkitError
from ...inference.backbones import Backbones
from ...inference.pipeline import compute_outputs, members_of, rows_to_answers
from ...inference.token_vectors import compute_token_vectors, token_vector_answers
from ...tasks.types import Answer, Example

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("adapterkit")


class Output(Enum):
    """What is computed for a row: the answer of its adapter, or the vector of each token."""

    ANSWER = auto()
    TOKEN_VECTORS = auto()


@dataclass(eq=False)
class PendingRow:
    """A row with the logits of its sequences so far.

    Attributes:
        adapter: The adapter that answers it; None for the plain backbone.
        example: Its sequences.
        output: What is computed for it.
        logits: Logits `[n, C]` by number of the sequence.
        answer: Its answer, after its last sequence.
    """

    adapter: Adapter | None
    example: Example
    output: Output = Output.ANSWER
    logits: dict[int, Tensor] = field(default_factory=dict)
    answer: Answer = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def parts(self) -> list[SequencePart]:
        """Its sequences, each as a part of its own."""
        return [SequencePart(self, number) for number in range(len(self.example.inputs))]

    def add(self, number: int, logits: Tensor) -> bool:
        """Stores the logits of a sequence; whether it was the last one."""
        with self._lock:  # two batches may end at the same time
            self.logits[number] = logits
            return len(self.logits) == len(self.example.inputs)


@dataclass(frozen=True, slots=True)
class SequencePart:
    """One sequence of a row, by its number in it."""

    row: PendingRow
    number: int

    @property
    def inputs(self) -> TokenSequence:
        """Its tokens."""
        return self.row.example.inputs[self.number]

    @property
    def n_tokens(self) -> int:
        """Number of tokens that are computed for it."""
        return len(members_of(self.row.adapter)) * len(self.inputs)


def compute_parts(backbones: Backbones, parts: Sequence[SequencePart]) -> list[Exception | None]:
    """Computes a batch of sequences, and the answers of the rows that are complete with them.

    Returns:
        For each sequence the error that prevented it, or its row's answer; None if there is none.
    """
    errors: list[Exception | None] = [None] * len(parts)
    for output in Output:
        indices = [index for index, part in enumerate(parts) if part.row.output is output]
        found = _compute_alike(backbones, [parts[index] for index in indices], output)
        for index, error in zip(indices, found, strict=True):
            errors[index] = error
    return errors


def _compute_alike(
    backbones: Backbones, parts: Sequence[SequencePart], output: Output
) -> list[Exception | None]:
    """As `compute_parts`, for rows of which the same output is computed."""
    is_answer = output is Output.ANSWER
    compute = compute_outputs if is_answer else compute_token_vectors
    make_answers = rows_to_answers if is_answer else token_vector_answers

    def outputs(some: Sequence[SequencePart]) -> list[tuple[Tensor, ...]]:
        rows = [(part.row.adapter, Example((part.inputs,))) for part in some]
        return backbones.map(compute, rows)

    def answers(some: Sequence[SequencePart]) -> list[Answer]:
        rows = [part.row for part in some]
        logits = [tuple(row.logits[n] for n in range(len(row.logits))) for row in rows]
        return make_answers([(row.adapter, row.example) for row in rows], logits)

    errors: list[Exception | None] = [None] * len(parts)
    complete = []
    for index, found in enumerate(_in_halves(outputs, parts)):
        if isinstance(found, Exception):
            errors[index] = found
        elif parts[index].row.add(parts[index].number, found[0]):
            complete.append(index)
    last = [parts[index] for index in complete]
    for index, answer in zip(complete, _in_halves(answers, last), strict=True):
        if isinstance(answer, Exception):
            errors[index] = answer
        else:
            parts[index].row.answer = answer
    return errors


def _in_halves(
    work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]
) -> list[R | Exception]:
    """The results of some work for items. If it fails, they are tried in ever smaller parts, and
    only those that fail alone get an error."""
    if not items:
        return []
    try:
        return [*work(items)]
    except Exception as error:
        if len(items) == 1:
            if not isinstance(error, AdapterkitError):
                log.exception("a row could not be answered")
            return [error]
        middle = len(items) // 2
        return [*_in_halves(work, items[:middle]), *_in_halves(work, items[middle:])]
