"""The rows that `predict` answers: from the command line, a file or standard input."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO

from ..data.requests import FaultyRow, RequestFile, RequestRow, Warn, parse_text
from ..errors import AdapterkitError, UnknownAdapterError, did_you_mean
from ..names import BASE

STANDARD_INPUT = Path("-")
"""The `--input` that stands for standard input."""

RowOrFault = RequestRow | FaultyRow


@dataclass(frozen=True)
class RequestSource:
    """What `predict` answers. It can be read several times.

    Attributes:
        words: Texts of the command line.
        file: The file, if one is given.
    """

    words: Sequence[str]
    file: RequestFile | None

    def rows(self, warn: Warn | None = None) -> Iterator[RowOrFault]:
        """Yields the rows one by one.

        Args:
            warn: Called with each warning; if omitted, there are none.

        Raises:
            DataError: The whole file is not valid.
        """
        if self.file is not None:
            yield from self.file.rows(warn or ignore)
        for number, word in enumerate(self.words, start=1):
            yield RequestRow(None, parse_text(word), f"text {number}")

    def __str__(self) -> str:
        return "the command line" if self.file is None else self.file.name or str(self.file.path)


@dataclass(frozen=True)
class RowSurvey:
    """What is known of rows before they are answered.

    Attributes:
        n_rows: Number of rows, with those that are not valid.
        n_open: Number of valid rows that name no adapter.
        adapters: Names of the adapters that rows name, in the order in which they appear.
        columns: Columns of all rows, likewise.
    """

    n_rows: int
    n_open: int
    adapters: Sequence[str]
    columns: Sequence[str]

    @classmethod
    def of(cls, rows: Iterable[RowOrFault], *, lenient: bool = False) -> RowSurvey:
        """Reads all rows once.

        Args:
            rows: The rows.
            lenient: Whether they may all be invalid.

        Raises:
            AdapterkitError: There are no rows, or none of them is valid.
        """
        n_rows, n_open, first_fault, has_valid = 0, 0, None, False
        adapters: dict[str, None] = {}
        columns: dict[str, None] = {}
        for row in rows:
            n_rows += 1
            columns |= dict.fromkeys(row.columns)
            if isinstance(row, FaultyRow):
                first_fault = first_fault or row.error
            else:
                has_valid = True
                n_open += row.adapter is None
                if row.adapter is not None:
                    adapters[row.adapter] = None
        if first_fault is not None and not has_valid and not lenient:
            raise first_fault
        if not n_rows:
            raise AdapterkitError("there is nothing to answer: give a TEXT or --input FILE")
        return cls(n_rows, n_open, list(adapters), list(columns))

    def n_answers(self, n_adapters: int) -> int:
        """Number of rows of the output, if so many adapters answer a row that names none."""
        return self.n_rows + self.n_open * (n_adapters - 1)


@contextmanager
def open_requests(
    words: Sequence[str],
    file: Path | None,
    columns: Mapping[str, str | None],
    adapter_column: str,
    ending: str | None,
) -> Iterator[RequestSource]:
    """Opens the texts of the command line, of a file or of standard input.

    Standard input is copied to a temporary file first, because it is read twice.

    Args:
        words: Texts of the command line.
        file: The file, if one is given; `STANDARD_INPUT` is standard input.
        columns: Name of the column of each role in the file; None if the role has none.
        adapter_column: Column of the file with the adapter of each row.
        ending: Format of standard input, as the ending of a file: csv, jsonl, ...

    Raises:
        AdapterkitError: There are both texts and a file, or the format is missing or not known.
    """
    if file is not None and words:
        raise AdapterkitError("give texts or --input, not both")
    if ending is not None and file != STANDARD_INPUT:
        raise AdapterkitError(
            "--format is for standard input (--input -); the ending of a file says its format"
        )
    roles = {role: name for role, name in columns.items() if name is not None}
    if file is None:
        yield RequestSource(words, None)
    elif file != STANDARD_INPUT:
        yield RequestSource((), RequestFile(file, roles, adapter_column))
    else:
        with NamedTemporaryFile(suffix=f".{_check_format(ending)}") as copy:
            shutil.copyfileobj(standard_input(), copy)
            copy.flush()
            path = Path(copy.name)
            yield RequestSource((), RequestFile(path, roles, adapter_column, "standard input"))


def assign_adapters(
    rows: Iterable[RowOrFault], names: Mapping[str, str], everyone: Sequence[str]
) -> Iterator[RowOrFault]:
    """Pairs each row with its adapter: the one that it names, or every requested adapter.

    Args:
        rows: The rows.
        names: The adapter's name by reference, as rows may name it.
        everyone: Names of the adapters that answer a row that names none.
    """
    for row in rows:
        if isinstance(row, FaultyRow):
            yield row
        elif row.adapter is not None:
            yield replace(row, adapter=names[row.adapter])
        else:
            yield from (replace(row, adapter=name) for name in everyone)


def known_names(
    survey: RowSurvey, names: Sequence[str], by_reference: Mapping[str, str], source: RequestSource
) -> dict[str, str]:
    """The adapter's name by reference, as the rows may name it.

    Args:
        survey: The rows.
        names: Of all adapters that are ready.
        by_reference: Each reference of the command line and the name it means.
        source: Where the rows are from, for messages.

    Raises:
        UnknownAdapterError: A row names an adapter that is not ready.
    """
    known = {BASE: BASE, **{name: name for name in names}, **by_reference}
    unknown = [name for name in survey.adapters if name not in known]
    if unknown:
        raise UnknownAdapterError(
            f"{source}: rows name the adapter '{unknown[0]}', which is not among --adapter "
            f"({', '.join(by_reference)})"
        )
    return known


def standard_input() -> BinaryIO:
    """The bytes of standard input."""
    return sys.stdin.buffer


def _check_format(ending: str | None) -> str:
    from ..data.readers import FORMATS

    endings = [suffix.removeprefix(".") for suffix in FORMATS]
    if ending is None:
        raise AdapterkitError(f"--input - needs --format: one of {', '.join(endings)}")
    if ending not in endings:
        raise AdapterkitError(f"--format {ending}: {did_you_mean(ending, endings)}")
    return ending


def ignore(warning: str) -> None:
    """Drops a warning that was given before."""
