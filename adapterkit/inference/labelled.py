"""Labelled rows made ready: what the backbone reads of each, and what it should answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..metrics.base import Predictions
from ..tasks.base import Task
from ..tasks.types import Example, Outputs, Row
from .forward import text_limit


@dataclass(frozen=True)
class Split:
    """Rows with their targets, for training and scoring alike."""

    examples: list[Example]
    targets: list[Any]

    def __len__(self) -> int:
        return len(self.examples)

    def only(self, numbers: Sequence[int]) -> Split:
        """Some of the rows, in lists of their own."""
        return Split([self.examples[n] for n in numbers], [self.targets[n] for n in numbers])

    def judged(self, task: Task) -> Split:
        """The rows as scoring puts them to the model, every time the same (`Task.masked_for`)."""
        examples = [
            task.masked_for(example, f"judged {n}") for n, example in enumerate(self.examples)
        ]
        return replace(self, examples=examples)

    def loss(self, task: Task, outputs: Outputs) -> float:
        """The mean of the rows' losses."""
        return float(task.loss(outputs, self.targets).mean())

    def predictions(self, task: Task, outputs: Outputs) -> Predictions:
        """What was said of the rows beside what is right."""
        return task.predictions(outputs, self.examples, self.targets)


def ready(backbone: Backbone, adapter: Adapter, rows: Sequence[Row]) -> Split:
    """Rows tokenised and their targets found.

    Raises:
        DataError: A row's label is not one the task knows.
    """
    limit = text_limit(backbone, adapter)
    examples = adapter.task.examples([row.fields for row in rows], backbone.reader, limit)
    targets = [
        adapter.task.target(row, example) for row, example in zip(rows, examples, strict=True)
    ]
    return Split(examples, targets)
