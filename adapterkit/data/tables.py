"""Rows of CSV and TSV files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from .file_format import FileFormat

LONGEST_FIELD = 1 << 24  # characters

NumberedRows = Iterator[tuple[int | None, dict[str, Any] | str]]
"""Number of a row and its values, or what is wrong with it; None for the whole file."""

EMPTY = "all fields are empty"
"""What is wrong with a row that a spreadsheet left empty."""


def read_csv(path: Path, file_format: FileFormat) -> NumberedRows:
    """Yields the rows of a .csv file."""
    with path.open(encoding=file_format.codec, newline="") as file:
        separator = file_format.separator or _separator_of(file.readline())
        file.seek(0)
        yield from _rows(file, separator, file_format, _any_field)


def read_tsv(path: Path, file_format: FileFormat) -> NumberedRows:
    """Yields the rows of a .tsv file."""
    separator = file_format.separator or "\t"
    check = _any_field if file_format.quoting else _check_one_line
    with path.open(encoding=file_format.codec, newline="") as file:
        yield from _rows(file, separator, file_format, check)


def repeated(names: Sequence[str]) -> list[str]:
    """Names that occur more than once."""
    return [name for index, name in enumerate(names) if name in names[:index]]


CheckFields = Callable[[Sequence[str], int, str], str | None]
"""From the fields of a row, its number of lines and the separator: what is wrong with it."""


def _any_field(fields: Sequence[str], lines: int, separator: str) -> None:
    return None


def _check_one_line(fields: Sequence[str], lines: int, separator: str) -> str | None:
    if lines == 1 and not any(separator in field for field in fields):
        return None
    return (
        "a quoted field runs over a tab or a line end; set data.quoting to none if quotes are "
        "plain characters in this file, to minimal if they enclose such fields"
    )


def _separator_of(header: str) -> str:
    """The separator of a .csv file: spreadsheets write semicolons where a comma marks decimals."""
    if "," not in header:
        for separator in (";", "\t"):
            if separator in header:
                return separator
    return ","


def _rows(
    file: TextIO, separator: str, file_format: FileFormat, check: CheckFields
) -> NumberedRows:
    records = _records(file, separator, file_format, check)
    line, header = next((one for one in records if one[1]), (1, []))
    if isinstance(header, str):
        yield line, header
        return
    if twice := repeated([name for name in header if name.strip()]):
        yield line, f"the column '{twice[0]}' is there twice"
        return
    for line, fields in records:
        if isinstance(fields, str):
            yield line, fields
        elif not fields and len(header) > 1:
            continue  # a blank line is a row of a table with a single column alone
        elif not any(map(str.strip, fields)):
            yield line, EMPTY
        else:
            yield line, _values(header, fields)


def _values(header: Sequence[str], fields: Sequence[str]) -> dict[str, Any] | str:
    if len(fields) != len(header):
        return (
            f"{len(fields)} fields where the header has {len(header)}; quote texts that hold the "
            "separator"
        )
    for number, (name, field) in enumerate(zip(header, fields, strict=True), start=1):
        # Spreadsheets write empty columns behind the last one. The first column without a name is
        # the index that pandas writes.
        if number > 1 and field.strip() and not name.strip():
            return (
                f"field {number} is {field!r:.40}, and the header has no name for its column; "
                "name it, or quote texts that hold the separator"
            )
    return {name: field for name, field in zip(header, fields, strict=True) if name.strip()}


def _records(
    file: TextIO, separator: str, file_format: FileFormat, check: CheckFields
) -> Iterator[tuple[int, list[str] | str]]:
    """Yields the number of the first line and the fields of every row; a blank line has none."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(
        file,
        delimiter=separator,
        quoting=csv.QUOTE_NONE if file_format.quoting == "none" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    line = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield (
                line,
                f"not CSV ({error}); close every quote and double those inside a text, or set "
                "data.quoting to none if quotes are plain characters in this file",
            )
        else:
            if fields is None:
                return
            fault = check(fields, reader.line_num + 1 - line, separator) if fields else None
            yield line, fault or fields
        line = reader.line_num + 1
