"""Requests from a file or the command line: a text and whose it is."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError

if TYPE_CHECKING:
    from ..tasks.types import Text


@dataclass(frozen=True)
class RequestRow:
    """What is asked.

    Attributes:
        adapter: Who it is for; None where the file does not say.
        text: The text, or values by role.
        where: File and row, or its number, for messages.
    """

    adapter: str | None
    text: Text
    where: str = field(default="", compare=False)


def read_asked(path: Path, text: str, text_pair: str | None, adapter: str) -> list[RequestRow]:
    """What a file asks, and each row's adapter where it has that column.

    A row with columns of other roles than texts (question, tokens, choices, ...) is asked as a
    whole.

    Raises:
        DataError: The file, a column or a row is not sound.
    """
    # A client shows answers as well and must not wait for torch, which these import.
    from ..names import BASE
    from ..tasks.base import tasks
    from .dataset import read_fields
    from .readers import read_records

    asked = []
    roles = {role for kind in tasks().values() for role in kind.reads}
    texts = {"text": text} if text_pair is None else {"text": text, "text_pair": text_pair}
    columns = {role: (column, "text") for role, column in texts.items()}
    for where, record in read_records(path):
        owner = record.get(adapter)
        if owner is not None and not isinstance(owner, str):
            raise DataError(f"{where}: column '{adapter}' is not a name")
        name = (owner or BASE) if adapter in record else None
        structured = roles.difference(columns) & record.keys()
        if structured:
            plain = {role: record[column] for role, column in texts.items() if column in record}
            parts = {role: record[role] for role in structured}
            asked.append(RequestRow(name, {**parts, **plain}, where))
            continue
        fields = read_fields(record, columns, where)
        first = fields["text"]
        asked.append(RequestRow(name, (first, fields["text_pair"]) if text_pair else first, where))
    return asked


def ask_word(word: str, where: str) -> RequestRow:
    """A text from the command line; a JSON object gives values by role."""
    if word.lstrip().startswith("{"):
        with suppress(ValueError):
            values = json.loads(word)
            if isinstance(values, dict):
                return RequestRow(None, values, where)
    return RequestRow(None, word, where)
