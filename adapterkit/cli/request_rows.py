"""The rows that `predict` answers: from the command line or a file, each with its adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..data.requests import RequestRow, parse_text, read_requests
from ..errors import AdapterkitError, UnknownAdapterError
from ..names import BASE


def read_request_rows(
    words: Sequence[str],
    file: Path | None,
    columns: Mapping[str, str | None],
    adapter_column: str,
) -> list[RequestRow]:
    """Reads the texts of the command line, or of a file.

    Args:
        words: Texts of the command line.
        file: The file, if one is given.
        columns: Name of the column of each role in the file; None if the role has none.
        adapter_column: Column of the file with the adapter of each row.

    Raises:
        AdapterkitError: There are both texts and a file, or no rows, or one of them is not valid.
    """
    if file is not None and words:
        raise AdapterkitError("give texts or --input, not both")
    if file is not None:
        named = {role: name for role, name in columns.items() if name is not None}
        rows = read_requests(file, named, adapter_column)
    else:
        rows = [
            RequestRow(None, parse_text(word), f"text {number}")
            for number, word in enumerate(words, start=1)
        ]
    if not rows:
        raise AdapterkitError("there is nothing to answer: give a TEXT or --input FILE")
    return rows


def assign_adapters(
    rows: Sequence[RequestRow],
    names: Sequence[str],
    by_reference: Mapping[str, str],
    file: Path | None,
) -> list[RequestRow]:
    """Pairs each row with its adapter: the one that it names, or every requested adapter.

    Args:
        rows: The rows.
        names: Of all adapters that are ready.
        by_reference: Each reference of the command line and the name it means.
        file: The file of the rows, for messages.

    Raises:
        UnknownAdapterError: A row names an adapter that is not ready.
    """
    known = {BASE: BASE, **{name: name for name in names}, **by_reference}
    unknown = sorted({row.adapter for row in rows if row.adapter is not None} - known.keys())
    if unknown:
        raise UnknownAdapterError(
            f"{file}: rows name the adapter '{unknown[0]}', which is not among --adapter "
            f"({', '.join(by_reference)})"
        )
    everyone = list(by_reference.values()) or [BASE]
    return [
        replace(row, adapter=name)
        for row in rows
        for name in (everyone if row.adapter is None else [known[row.adapter]])
    ]
