"""What every task is: head, loss, labels, answers and metrics in one dataclass.

A new task is one new file in `tasks/` with one frozen dataclass that extends `Task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from .batch import Encoded, Pooling
from .ops import Noise
from .registry import discover

Tensors = dict[str, Tensor]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    Attributes:
        fields: Values by role (`text`, `text_pair`, `label`).
        where: File and row, for messages.
    """

    fields: Mapping[str, str]
    where: str


class Task(ABC):
    """One kind of task with one adapter's settings; a frozen dataclass."""

    type: ClassVar[str]
    """Name in recipes and files."""

    peft_task_type: ClassVar[str | None] = None
    """`task_type` in `adapter_config.json`."""

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

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        """What a person should know about the training rows, in sentences."""
        return []

    @abstractmethod
    def same_answers(self, other: Task) -> bool:
        """Whether a head trained for the other task means the same here."""

    @classmethod
    @abstractmethod
    def from_head(cls, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """The task of a foreign folder that has only a head.

        Args:
            shapes: Names and shapes of the head's tensors.

        Raises:
            ValueError: It is no head of this task.
        """

    @abstractmethod
    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the head's tensors, named as in transformers' task models."""

    @abstractmethod
    def fresh_head(self, hidden: int, generator: torch.Generator) -> Tensors:
        """A head to train from scratch, float32."""

    @abstractmethod
    def target(self, row: Row) -> Any:
        """What a row's answer should be, as `loss` takes it.

        Raises:
            DataError: The row has no answer this task knows.
        """

    @abstractmethod
    def logits(
        self, head: Tensors, encoded: Encoded, span: tuple[int, int], noise: Noise | None
    ) -> Tensor:
        """Raw scores of packed sequences `span[0]` to `span[1]`, float32, a line for each."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Sequence[Any]) -> Tensor:
        """Loss of each row, `[n]`."""

    @abstractmethod
    def answers(self, logits: Tensor) -> list[Answer]:
        """What a person wants to read, one answer for each row."""

    @abstractmethod
    def metrics(self, logits: Tensor, targets: Sequence[Any]) -> dict[str, float]:
        """Scores of a whole split, `main_metric` among them."""


@cache
def tasks() -> dict[str, type[Task]]:
    """Every task there is, by name."""
    from . import tasks as package

    return discover(package, Task)
