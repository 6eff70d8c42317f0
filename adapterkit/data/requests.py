"""Requests from a file or the command line: a text, or values by role, and the adapter asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, RowError
from ..names import BASE
from ..tasks.columns import SourceColumn
from ..tasks.fields import FieldKind
from .json_rows import without_repeats

if TYPE_CHECKING:
    from ..tasks.types import Text

log = logging.getLogger("adapterkit")

Warn = Callable[[str], None]
"""Called with every warning."""

MOST_DEPTH = 32
"""Nesting of JSON that is read as values by role: those need 3, and messages can print it."""


@dataclass(frozen=True)
class RequestRow:
    """One request.

    Attributes:
        adapter: Name of the adapter it is for; None if the file does not say.
        text: A text, several texts, or values by role.
        where: File and row, or the text's number on the command line, for messages.
        columns: All columns of its row in the file.
    """

    adapter: str | None
    text: Text
    where: str = field(default="", compare=False)
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class FaultyRow:
    """A row of a file that is no valid request.

    Attributes:
        error: What is wrong with it.
        columns: Its columns; empty if they cannot be read.
    """

    error: DataError
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RequestFile:
    """A file of requests.

    A row that has a column that is called as a role that some task requires, other than those in
    `columns`, is a request with values by role; any other row gives its texts alone.

    Attributes:
        path: CSV, TSV, JSONL, JSON, text or Parquet.
        columns: Columns of texts by role, in the order in which a task takes them.
        adapter: Column with the name of each row's adapter; it may be missing.
        name: How messages call the file; its path if omitted.
    """

    path: Path
    columns: Mapping[str, str]
    adapter: str = "adapter"
    name: str | None = None

    def rows(self, warn: Warn = log.warning) -> Iterator[RequestRow | FaultyRow]:
        """Yields the rows one by one, with those that are not valid in their place. Empty rows at
        the end of a table, as spreadsheets leave them, and blank lines at the end of plain text are
        skipped.

        Args:
            warn: Called with each warning.

        Raises:
            DataError: The whole file is not valid.
        """
        # The client reads the command line with this module and must not wait for torch.
        from .readers import read_records

        sources = {role: SourceColumn(name, FieldKind.TEXT) for role, name in self.columns.items()}
        faults: list[FaultyRow] = []
        empty: list[FaultyRow] = []  # empty rows after the last row that is not empty

        def keep(error: DataError) -> None:
            if not isinstance(error, RowError):
                raise error
            faults.extend((*empty, FaultyRow(error)))
            empty.clear()

        def keep_empty(error: DataError) -> None:
            empty.append(FaultyRow(error))

        for where, record in read_records(self.path, keep, name=self.name, tell_empty=keep_empty):
            yield from (*faults, *empty)
            faults.clear()
            empty.clear()
            yield self._row(record, where, sources)
        yield from faults
        if empty:
            warn(f"{self.name or self.path}: skipped {len(empty)} empty rows at its end")

    def _row(
        self, record: Mapping[str, Any], where: str, sources: Mapping[str, SourceColumn]
    ) -> RequestRow | FaultyRow:
        try:
            name = _adapter_of(record, self.adapter, where)
            return RequestRow(name, _text_of(record, self.columns, sources, where), where, record)
        except DataError as error:
            return FaultyRow(error, record)


def read_requests(path: Path, columns: Mapping[str, str], adapter: str) -> list[RequestRow]:
    """All requests of a file; the arguments are as in `RequestFile`.

    Raises:
        DataError: The file, a column or a row is not valid.
    """
    requests = []
    for row in RequestFile(path, columns, adapter).rows():
        if isinstance(row, FaultyRow):
            raise row.error
        requests.append(row)
    return requests


@cache
def _required_roles() -> list[str]:
    """The roles that a request must have for some task."""
    from ..tasks.base import column_roles

    return [
        role
        for role, by_task in column_roles().items()
        if any(column.required and not column.learned for column in by_task.values())
    ]


def _adapter_of(record: Mapping[str, Any], column: str, where: str) -> str | None:
    """The adapter that a row names: the plain backbone if the column is empty, None without it."""
    if column not in record:
        return None
    name = record[column]
    if name is not None and not isinstance(name, str):
        raise DataError(f"{where}: column '{column}' is not a name")
    return name or BASE


def _text_of(
    record: Mapping[str, Any],
    columns: Mapping[str, str],
    sources: Mapping[str, SourceColumn],
    where: str,
) -> Text:
    """What a row asks: values by role if a column of it is called as a role, else its texts.

    Args:
        record: Values by column.
        columns: Columns of texts by role.
        sources: The same, with the kind of their values.
        where: File and row.
    """
    from .dataset import read_fields

    values = {
        role: record[role] for role in _required_roles() if role in record and role not in columns
    }
    if values:
        named = {role: record[column] for role, column in columns.items() if column in record}
        return {**named, **values}
    texts = tuple(read_fields(record, sources, where).values())
    return texts if len(texts) > 1 else texts[0]


def parse_text(word: str) -> str | dict[str, Any]:
    """What a word of the command line or of a tensor asks: a text, or values by role if it is a
    JSON object that is nested at most `MOST_DEPTH` deep.

    Raises:
        DataError: The object has a key twice.
    """
    if not may_be_values(word):
        return word
    try:
        values = json.loads(word, object_pairs_hook=without_repeats)
    except KeyError as error:
        raise DataError(f"the key '{error.args[0]}' is there twice in {word:.60}") from None
    except (ValueError, RecursionError):  # the latter: nested deeper than Python can parse
        return word
    return values if isinstance(values, dict) and not _is_deeper(values, MOST_DEPTH) else word


def may_be_values(word: str) -> bool:
    """Whether `parse_text` reads a word as JSON."""
    return word.lstrip().startswith("{")


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether objects and lists are nested deeper than a depth; found without recursion."""
    level = [value]
    for _ in range(depth):
        parts = [one for one in level if isinstance(one, (dict, list))]
        level = [item for one in parts for item in (one.values() if isinstance(one, dict) else one)]
    return any(isinstance(one, (dict, list)) for one in level)
