"""Requests from a file or the command line: a text, or values by role, and the adapter asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError

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
        path: CSV, TSV, JSONL, text or Parquet.
        columns: Columns of texts by role, in the order in which a task takes them.
        adapter: Column with the name of each row's adapter; it may be missing.

    Raises:
        DataError: The file, a column or a row is not valid.
    """
    # The client reads the command line with this module and must not wait for torch.
    from ..names import BASE
    from ..tasks.base import column_roles
    from ..tasks.columns import SourceColumn
    from ..tasks.fields import TEXT
    from .dataset import read_fields
    from .readers import read_records

    roles = [
        role
        for role, declared in column_roles().items()
        if any(column.required and not column.learned for column in declared.values())
        and role not in columns
    ]
    texts = {role: SourceColumn(name, TEXT) for role, name in columns.items()}
    requests = []
    for where, record in read_records(path):
        owner = record.get(adapter)
        if owner is not None and not isinstance(owner, str):
            raise DataError(f"{where}: column '{adapter}' is not a name")
        name = (owner or BASE) if adapter in record else None
        values = {role: record[role] for role in roles if role in record}
        if values:
            named = {role: record[column] for role, column in columns.items() if column in record}
            requests.append(RequestRow(name, {**named, **values}, where))
            continue
        found = tuple(read_fields(record, texts, where).values())
        requests.append(RequestRow(name, found if len(found) > 1 else found[0], where))
    return requests


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
