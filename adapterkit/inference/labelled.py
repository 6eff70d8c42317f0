"""Labelled rows as tokens and targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..data.dataset import parse_rows
from ..data.file_format import FileFormat
from ..data.memory import RowsInMemory, records_by_split
from ..data.readers import Records, read_records
from ..data.splits import SPLITS
from ..errors import DataError
from ..metrics.base import Predictions
from ..tasks.base import Task
from ..tasks.columns import column_names, source_columns
from ..tasks.types import Example, Outputs, Row
from .forward import text_limit


@dataclass(frozen=True)
class Split:
    """Tokenised rows with their targets.

    Attributes:
        examples: What the backbone reads of each row.
        targets: What the task must answer, in the task's own form (`Task.target`).
    """

    examples: list[Example]
    targets: list[Any]

    def __len__(self) -> int:
        return len(self.examples)

    def select(self, numbers: Sequence[int]) -> Split:
        """Some of the rows, in new lists."""
        return Split([self.examples[n] for n in numbers], [self.targets[n] for n in numbers])

    def for_evaluation(self, task: Task) -> Split:
        """The rows as evaluation uses them: with the same masked tokens every time."""
        examples = [
            task.masked_for(example, f"judged {n}") for n, example in enumerate(self.examples)
        ]
        return replace(self, examples=examples)

    def loss(self, task: Task, outputs: Outputs) -> float:
        """Mean loss of the rows."""
        return float(task.loss(outputs, self.targets).mean())

    def predictions(self, task: Task, outputs: Outputs) -> Predictions:
        """The answers for the rows, with the correct ones."""
        return task.predictions(outputs, self.examples, self.targets)


def read_rows(
    path: str | Path,
    adapter: Adapter,
    *,
    split: str = "test",
    columns: Mapping[str, str] | None = None,
) -> list[Row]:
    """Reads the labelled rows of one split, as `evaluate` takes them.

    Args:
        path: A CSV, TSV, JSONL, JSON or Parquet file.
        adapter: The adapter whose task reads the rows.
        split: The split; a file without a split column is read completely.
        columns: Role to the name of its column. Other roles have the names that the adapter was
            trained with.

    Raises:
        DataError: The file, a column or a row is not valid, or the split has no rows.
    """
    if split not in SPLITS:
        raise DataError(f"split {split}: expected {', '.join(SPLITS)}")
    for role in columns or {}:
        if role not in adapter.task.columns:
            raise DataError(
                f"{role}: the task {adapter.task.type} of '{adapter.name}' has no such column, "
                f"only {', '.join(adapter.task.columns)}"
            )
    section = adapter.training.get("recipe", {}).get("data", {})
    written = {key.name: section[key.name] for key in fields(FileFormat) if key.name in section}
    records = read_records(Path(path), file_format=FileFormat(**written))
    found = list(_parsed(records, adapter, columns or {}))
    # As in training, a row that names no split beside others that do is a training row.
    unnamed = "train" if any(part is not None for part, _ in found) else split
    rows = [row for part, row in found if (part or unnamed) == split]
    if not rows:
        raise DataError(f"{path}: there are no rows of split '{split}'")
    return rows


def labelled_rows(rows: Sequence[Row] | RowsInMemory, adapter: Adapter) -> list[Row]:
    """Labelled rows in memory as rows of the adapter's task; those that are rows already stay so.

    Args:
        rows: Rows, a list of mappings, a data frame or a data set. All of them are used.
        adapter: The adapter; the columns have the names that it was trained with.

    Raises:
        DataError: A column or a value is not valid, or there are no rows.
    """
    if isinstance(rows, list) and rows and all(isinstance(row, Row) for row in rows):
        return rows
    parts = (_parsed(records, adapter, {}) for _, records in records_by_split(rows))
    found = [row for part in parts for _, row in part]
    if not found:
        raise DataError("rows: there are none")
    return found


def _parsed(
    records: Records, adapter: Adapter, columns: Mapping[str, str]
) -> Iterator[tuple[str | None, Row]]:
    """The split and the row of each record, by the columns that an adapter was trained with."""
    declared, section = adapter.task.columns, adapter.training.get("recipe", {}).get("data", {})
    sources = source_columns(declared, {**column_names(section, declared), **columns})
    return parse_rows(records, sources, section.get("split", "split"))


def prepare_rows(backbone: Backbone, adapter: Adapter, rows: Sequence[Row]) -> Split:
    """Tokenises rows and finds their targets.

    Raises:
        DataError: A row has a label that the task does not know.
    """
    limit = text_limit(backbone, adapter)
    examples = adapter.task.examples([row.fields for row in rows], backbone.reader, limit)
    targets = [
        adapter.task.target(row, example) for row, example in zip(rows, examples, strict=True)
    ]
    return Split(examples, targets)
