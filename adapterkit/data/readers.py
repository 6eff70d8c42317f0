"""Records from CSV, TSV, JSONL, JSON, text and Parquet files; errors name file and row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, RowError
from .file_format import FileFormat
from .hf_datasets import parquet_class_namer
from .json_rows import read_json, read_jsonl
from .tables import EMPTY, NumberedRows, read_csv, read_tsv, repeated

log = logging.getLogger("adapterkit")

Records = Iterator[tuple[str, dict[str, Any]]]
"""For each row where it stands (`file:row`), and its values by column."""

Tell = Callable[[DataError], None]
"""Called with every error, a `RowError` for a broken row. If it returns, reading continues."""

UTF8 = FileFormat()


def stop(error: DataError) -> None:
    """Stops reading at the first error."""
    raise error


def read_records(
    path: Path,
    tell: Tell = stop,
    file_format: FileFormat = UTF8,
    *,
    name: str | None = None,
    tell_empty: Tell | None = None,
) -> Records:
    """Yields every valid row of a file.

    The number of a row is that of its first line; in JSON and Parquet its number from 1. In plain
    text each line is a row with the column `text`.

    Args:
        path: A file in one of `FORMATS`, by its ending.
        tell: Called if the file is missing, empty or unreadable, and for each row that is broken.
        file_format: How it is written.
        name: How messages call the file; its path if omitted.
        tell_empty: Called for each row of a table whose fields are all empty, and for each blank
            line of plain text. If omitted, one warning is logged that such rows were skipped.
    """
    name = name or str(path)
    if not path.is_file():
        return tell(DataError(f"{name}: there is no such file"))
    if path.suffix not in FORMATS:
        *some, last = FORMATS
        return tell(DataError(f"{name}: expected a file ending in {', '.join(some)} or {last}"))
    skipped: list[DataError] = []
    tell_empty = tell_empty or skipped.append
    empty = True
    try:
        for row, found in FORMATS[path.suffix](path, file_format):
            if found == EMPTY:
                tell_empty(RowError(f"{name}:{row}: {EMPTY}"))
                continue
            empty = False
            if isinstance(found, str):
                tell(
                    DataError(f"{name}: {found}")
                    if row is None
                    else RowError(f"{name}:{row}: {found}")
                )
            else:
                yield f"{name}:{row}", found
    except UnicodeError as error:  # of UTF-16, a missing byte order mark is its base class alone
        return tell(DataError(f"{name}{_wrong_encoding(path, file_format, error)}"))
    except OSError as error:
        return tell(DataError(f"{name}: cannot be read ({error.strerror or error})"))
    if skipped:
        rows = "1 empty row" if len(skipped) == 1 else f"{len(skipped)} empty rows"
        line = str(skipped[0]).removeprefix(f"{name}:").partition(":")[0]
        log.warning(f"{name}: skipped {rows}, the first in line {line}")
    if empty:
        tell(DataError(f"{name}: there are no rows"))
    return None


def _txt(path: Path, file_format: FileFormat) -> NumberedRows:
    with path.open(encoding=file_format.codec, newline="") as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            yield number, {"text": text} if text else EMPTY


def _parquet(path: Path, file_format: FileFormat) -> NumberedRows:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            if twice := repeated(schema.names):
                yield None, f"the column '{twice[0]}' is there twice"
                return
            with_names = parquet_class_namer(schema)
            for batch in file.iter_batches():
                for row in range(batch.num_rows):
                    number += 1
                    yield number, _values(batch, row, with_names)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        if number:
            yield number + 1, f"cannot be read ({reason:.200})"
        else:
            yield None, f"not a Parquet file that can be read ({reason:.200})"


def _values(batch: Any, row: int, with_names: Any) -> dict[str, Any] | str:
    pairs = zip(batch.schema.names, batch.columns, strict=True)
    try:
        record: dict[str, Any] = with_names({name: column[row].as_py() for name, column in pairs})
    except (ValueError, OverflowError) as error:  # bytes that are no text, dates out of range
        return f"cannot be read ({error})"
    return record


FORMATS: dict[str, Callable[[Path, FileFormat], NumberedRows]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".txt": _txt,
    ".parquet": _parquet,
}


def _wrong_encoding(path: Path, file_format: FileFormat, error: UnicodeError) -> str:
    """The message about a file that is not in an encoding, after its name; for UTF-8 it names the
    line and the byte."""
    if file_format.codec != "utf-8-sig":
        return f": not {file_format.encoding} text ({error.args[-1]}); set data.encoding"
    hint = "save the file as UTF-8, or set data.encoding (utf-16, cp1252, gb18030, ...)"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as wrong:
                byte = line[wrong.start]
                return f":{number}: the byte {byte:#04x} is not UTF-8 text; {hint}"
    return f": not UTF-8 text; {hint}"
