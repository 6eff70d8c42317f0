"""What every task is: what it reads, head, loss, answers and metrics in one dataclass.

A new task is one new file in `tasks/` with one frozen dataclass that extends `Task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Encoded, Inputs, Pooling
from .errors import DataError
from .fields import Fields, check_field
from .ops import Noise
from .registry import discover
from .sections import is_text
from .tokens import Reader

Tensors = dict[str, Tensor]
Answer = dict[str, Any]
Text = str | Sequence[Any] | Mapping[str, Any]
"""What is asked: a text, several texts in the order of the task's roles, or values by role."""


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

    inputs: tuple[Inputs, ...]
    notes: Any = None

    @property
    def truncated(self) -> bool:
        """Whether a part of the row is not read at all."""
        return len(self.inputs) == 1 and self.inputs[0].truncated


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


class Task(ABC):
    """One kind of task with one adapter's settings; a frozen dataclass."""

    type: ClassVar[str]
    """Name in recipes and files."""

    peft_task_type: ClassVar[str | None] = None
    """`task_type` in `adapter_config.json`."""

    foreign: ClassVar[bool] = False
    """Whether a PEFT folder of that task type is read as this task."""

    reads: ClassVar[Mapping[str, str]] = {"text": "text"}
    """Role to kind of value (see `fields.KINDS`) of what a row must have to be answered."""

    may_read: ClassVar[Mapping[str, str]] = {}
    """Likewise, of what a row may have besides."""

    learns: ClassVar[Mapping[str, str]]
    """Likewise, of what a row must have besides to be learnt from."""

    per_token: ClassVar[bool] = False
    """Whether the head says a line for every token, or one for every sequence."""

    main_metric: ClassVar[str]
    """The metric that decides which epoch is kept; higher is better."""

    max_length: int | None
    """Most tokens of a text, special ones included; as many as the backbone takes where None."""

    @abstractmethod
    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        """The task with what it learns from its training rows (label names) filled in.

        Args:
            rows: The training rows.
            pooling: What suits the backbone, where the recipe leaves it open.

        Raises:
            DataError: The rows cannot be trained on.
        """

    def fields(self, asked: Text, where: str) -> Fields:
        """What is asked as values by role.

        Args:
            asked: A text, several texts in the order of `reads` and `may_read`, or values by role.
            where: What messages call it.

        Raises:
            DataError: A value is missing, empty or of another kind.
        """
        kinds = {**self.reads, **self.may_read}
        if isinstance(asked, Mapping):
            values = dict(asked)
        else:
            known = is_text(asked) or isinstance(asked, (list, tuple))
            parts = [asked] if isinstance(asked, str) else list(asked) if known else []
            if not len(self.reads) <= len(parts) <= len(kinds):
                raise DataError(
                    f"{where}: expected {' and '.join(self.reads)}"
                    + (f", and perhaps {' and '.join(self.may_read)}" if self.may_read else "")
                    + f", got {asked!r:.80}"
                )
            values = dict(zip(kinds, parts, strict=False))
        for role in self.reads:
            if role not in values:
                raise DataError(f"{where}: there is no {role}")
        return {
            role: check_field(kind, values[role], f"{where}: {role}")
            for role, kind in kinds.items()
            if role in values
        }

    def stratum(self, row: Row) -> Hashable:
        """What drawn splits keep the shares of: the label, where a row has one."""
        return None

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """What a person should know about the training rows, in sentences."""
        return []

    @abstractmethod
    def same_answers(self, other: Task) -> bool:
        """Whether a head trained for the other task means the same here."""

    @classmethod
    def from_head(cls, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """The task of a foreign folder that has only a head.

        Args:
            shapes: Names and shapes of the head's tensors.

        Raises:
            ValueError: It is no head of this task.
        """
        raise ValueError(f"a {cls.type} head alone does not say what it answers")

    @abstractmethod
    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the head's tensors, named as in transformers' task models."""

    def fresh_head(self, hidden: int, generator: torch.Generator) -> Tensors:
        """A head to train from scratch, float32, as BERT begins: weights normal with standard
        deviation 0.02, biases zero."""
        head = {name: torch.zeros(shape) for name, shape in self.head_shapes(hidden).items()}
        for name, tensor in head.items():
            if name.endswith(".weight"):
                tensor.normal_(std=0.02, generator=generator)
        return head

    @abstractmethod
    def examples(self, rows: Sequence[Fields], reader: Reader, limit: int) -> list[Example]:
        """Rows as the backbone reads them.

        Args:
            rows: Values by role, checked.
            reader: The backbone's tokenizer.
            limit: Most tokens of a sequence, special ones included.
        """

    @abstractmethod
    def target(self, row: Row, example: Example) -> Any:
        """What a row's answer should be, as `loss` and `metrics` take it.

        Raises:
            DataError: The row has no answer this task knows.
        """

    @abstractmethod
    def logits(
        self, head: Tensors, encoded: Encoded, span: tuple[int, int], noise: Noise | None
    ) -> Tensor:
        """Raw scores of packed sequences `span[0]` to `span[1]`, float32: a line for each, or for
        each of their tokens where the task is `per_token`."""

    @abstractmethod
    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Loss of each row, `[n]`."""

    @abstractmethod
    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """What a person wants to read, one answer for each row."""

    @abstractmethod
    def metrics(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> dict[str, float]:
        """Scores of a whole split, `main_metric` among them."""


def token_logits(
    weight: Tensor,
    bias: Tensor,
    encoded: Encoded,
    span: tuple[int, int],
    noise: Noise | None,
    dropout: float,
) -> Tensor:
    """A linear head on every token of packed sequences `span[0]` to `span[1]`, `[t, C]` float32."""
    start, end = (encoded.packed.offsets[place] for place in span)
    states = encoded.tokens[start:end].float()
    if noise is not None:
        states = noise.drop_tokens(states, dropout, start)
    return F.linear(states, weight, bias)


@cache
def tasks() -> dict[str, type[Task]]:
    """Every task there is, by name."""
    from . import tasks as package

    return discover(package, Task)
