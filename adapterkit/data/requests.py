"""Requests from a file or the command line: a text, or values by role, and the adapter asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..names import BASE
from ..tasks.columns import SourceColumn
from ..tasks.fields import FieldKind

if TYPE_CHECKING:
    from ..tasks.types import Text


MOST_DEPTH = 32
"""Nesting of JSON that is read as values by role: those need 3, and messages can print it."""


@dataclass(frozen=True)
class RequestRow:
    """One request.

    Attributes:
        adapter: Name of the adapter it is for; None if the file does not say.
        text: A text, several texts, or values by role.
        where: File and row, or the text's number on the command line, for messages.
    """

    adapter: str | None
    text: Text
    where: str = field(default="", compare=False)


def read_requests(path: Path, columns: Mapping[str, str], adapter: str) -> list[RequestRow]:
    """The requests of a file.

    A row that has a column that is called as a role that some task requires, other than those in
    `columns`, is a request with values by role; any other row gives its texts alone.

    Args:
        path: CSV, TSV, JSONL, JSON, text or Parquet.
        columns: Columns of texts by role, in the order in which a task takes them.
        adapter: Column with the name of each row's adapter; it may be missing.

    Raises:
        DataError: The file, a column or a row is not valid.
    """
    # The client reads the command line with this module and must not wait for torch.
    from .readers import read_records

    roles = [role for role in _required_roles() if role not in columns]
    requests = []
    for where, record in read_records(path):
        name = _adapter_of(record, adapter, where)
        requests.append(RequestRow(name, _text_of(record, columns, roles, where), where))
    return requests


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
    record: Mapping[str, Any], columns: Mapping[str, str], roles: Sequence[str], where: str
) -> Text:
    """What a row asks: values by role if a column of it is called as a role, else its texts."""
    from .dataset import read_fields

    values = {role: record[role] for role in roles if role in record}
    if values:
        named = {role: record[column] for role, column in columns.items() if column in record}
        return {**named, **values}
    sources = {role: SourceColumn(name, FieldKind.TEXT) for role, name in columns.items()}
    texts = tuple(read_fields(record, sources, where).values())
    return texts if len(texts) > 1 else texts[0]


def parse_text(word: str) -> str | dict[str, Any]:
    """What a word of the command line or of a tensor asks: a text, or values by role if it is a
    JSON object that is nested at most `MOST_DEPTH` deep."""
    if not word.lstrip().startswith("{"):
        return word
    try:
        values = json.loads(word)
    except (ValueError, RecursionError):  # the latter: nested deeper than Python can parse
        return word
    return values if isinstance(values, dict) and not _is_deeper(values, MOST_DEPTH) else word


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether objects and lists are nested deeper than a depth; found without recursion."""
    level = [value]
    for _ in range(depth):
        parts = [one for one in level if isinstance(one, (dict, list))]
        level = [item for one in parts for item in (one.values() if isinstance(one, dict) else one)]
    return any(isinstance(one, (dict, list)) for one in level)
