"""Rows in memory: lists of mappings, data frames and data sets, whole or by split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import DataError
from .hf_datasets import read_split
from .readers import Records
from .splits import SPLITS
from .tables import repeated

RowsInMemory = Any
"""A list of mappings, a data frame of pandas or Polars, or a data set of `datasets`; or a mapping
of the splits train, validation and test to such rows. Without splits, the split column of the
recipe names the split of each row."""


def records_by_split(rows: RowsInMemory) -> Iterator[tuple[str | None, Records]]:
    """Yields the records of each split; its name is None if a split column names it.

    Raises:
        DataError: They are rows of no kind that is known.
    """
    if not isinstance(rows, Mapping):
        yield None, _records(rows, "rows")
        return
    for split, part in rows.items():
        if split not in SPLITS:
            raise DataError(f"rows: the split {split!r} is none of {', '.join(SPLITS)}")
        yield split, _records(part, f"rows[{split}]")


def _records(rows: Any, name: str) -> Records:
    if hasattr(rows, "features") and hasattr(rows, "column_names"):  # datasets.Dataset
        return read_split(rows, name)
    if hasattr(rows, "to_dicts"):  # polars.DataFrame
        return _numbered(rows.to_dicts(), name)
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas.DataFrame
        if twice := repeated(list(rows.columns)):  # of which it would give the last one
            raise DataError(f"{name}: the column {twice[0]!r} is there twice")
        return _numbered(rows.to_dict("records"), name)
    if isinstance(rows, Iterable) and not isinstance(rows, (str, bytes)):
        return _numbered(rows, name)
    raise DataError(
        f"{name}: expected a list of mappings, a data frame or a data set, got {_kind(rows)}"
    )


def _numbered(rows: Iterable[Any], name: str) -> Records:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(f"{name}:{number}: expected a mapping of columns, got {_kind(row)}")
        yield f"{name}:{number}", dict(row)


def _kind(value: Any) -> str:
    return type(value).__name__
