"""Records from CSV, TSV, JSONL, text and Parquet files; errors name file and row."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .hf_datasets import parquet_class_namer

Records = Iterator[tuple[str, dict[str, Any]]]
"""For each row where it stands (`file:row`), and its values by column."""

Tell = Callable[[DataError], None]
"""Called with every error. If it returns, reading continues."""

Found = Iterator[tuple[int | None, dict[str, Any] | str]]
"""Number of a row and its values, or what is wrong with it; None for the whole file."""

LONGEST_FIELD = 1 << 24  # characters in one CSV field


def stop(error: DataError) -> None:
    """Stops reading at the first error."""
    raise error


def read_records(path: Path, tell: Tell = stop) -> Records:
    """Yields every valid row of a file.

    The number of a row is that of its first line, and in Parquet its number from 1. In plain text
    each line is a row with the column `text`.

    Args:
        path: A file in one of `FORMATS`, by its ending; texts in UTF-8.
        tell: Called if the file is missing, empty or unreadable, and for each row that is broken.
    """
    if not path.is_file():
        return tell(DataError(f"{path}: there is no such file"))
    if path.suffix not in FORMATS:
        *some, last = FORMATS
        return tell(DataError(f"{path}: expected a file ending in {', '.join(some)} or {last}"))
    empty = True
    try:
        for row, found in FORMATS[path.suffix](path):
            empty = False
            where = f"{path}:{row}" if row is not None else str(path)
            if isinstance(found, str):
                tell(DataError(f"{where}: {found}"))
            else:
                yield where, found
    except UnicodeDecodeError:
        return tell(DataError(f"{_first_non_utf8(path)}; save the file as UTF-8"))
    except OSError as error:
        return tell(DataError(f"{path}: cannot be read ({error.strerror or error})"))
    if empty:
        tell(DataError(f"{path}: there are no rows"))
    return None


def _csv(path: Path) -> Found:
    return _table(path, ",", "commas")


def _tsv(path: Path) -> Found:
    return _table(path, "\t", "tabs")


def _table(path: Path, delimiter: str, delimiters: str) -> Found:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = _cells(file, delimiter)
        line, header = next(rows, (1, []))
        if isinstance(header, str):
            yield line, header
            return
        if repeated := _repeated(header):
            yield line, f"the column '{repeated[0]}' is there twice"
            return
        for line, cells in rows:
            if isinstance(cells, str):
                yield line, cells
            elif len(cells) != len(header):
                yield (
                    line,
                    f"{len(cells)} fields where the header has {len(header)}; "
                    f"quote texts that hold {delimiters}",
                )
            else:
                yield line, dict(zip(header, cells, strict=True))


def _cells(file: Any, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yields the number of the first line and the fields of every row that is not blank. A quoted
    text may span several lines."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield line, f"not CSV ({error}); close every quote and double those inside a text"
        else:
            if cells is None:
                return
            if cells:
                yield line, cells
        line = reader.line_num + 1


def _jsonl(path: Path) -> Found:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _object(line)


def _txt(path: Path) -> Found:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, {"text": line.strip()}


def _object(line: str) -> dict[str, Any] | str:
    try:
        record = json.loads(line, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at character {error.pos + 1})"
    except KeyError as error:
        return f"the key '{error.args[0]}' is there twice"
    except (ValueError, RecursionError) as error:  # a number too long, lists too deep
        return f"cannot be read ({error})"
    if not isinstance(record, dict):
        return f"expected a JSON object, got {type(record).__name__}"
    return record


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. The parser would keep the last of two equal keys without a message.

    Raises:
        KeyError: A key is repeated.
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        raise KeyError(_repeated([key for key, _ in pairs])[0])
    return record


def _parquet(path: Path) -> Found:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            if repeated := _repeated(schema.names):
                yield None, f"the column '{repeated[0]}' is there twice"
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


FORMATS: dict[str, Callable[[Path], Found]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".txt": _txt,
    ".parquet": _parquet,
}


def _repeated(names: list[str]) -> list[str]:
    """Names that occur more than once."""
    return [name for index, name in enumerate(names) if name in names[:index]]


def _first_non_utf8(path: Path) -> str:
    """A message about the first byte of a file that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"{path}:{number}: the byte {line[error.start]:#04x} is not UTF-8 text"
    return f"{path}: not UTF-8 text"
