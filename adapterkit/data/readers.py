"""Records from CSV, TSV, JSONL, text and Parquet files, and their faults by file and row."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .hf_datasets import named

Records = Iterator[tuple[str, dict[str, Any]]]
"""Place (`file:row`) and values by column of each row."""

Tell = Callable[[DataError], None]
"""Who is told of a fault; the reading goes on where this returns."""

Found = Iterator[tuple[int | None, dict[str, Any] | str]]
"""Row and its values, or what is wrong with it; None is the whole file."""

LONGEST_FIELD = 1 << 24  # characters in one CSV field


def stop(fault: DataError) -> None:
    """Ends the reading at the first fault."""
    raise fault


def read_records(path: Path, tell: Tell = stop) -> Records:
    """Every row of a file that can be read.

    Rows go by the line they begin on, those of Parquet are numbered from 1. Plain text has a row a
    line, with the column `text` alone.

    Args:
        path: A file in one of `FORMATS`, by its ending; texts in UTF-8.
        tell: Told that the file is missing or empty, or that a row is broken.
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
        return tell(DataError(f"{_first_foreign(path)}; save the file as UTF-8"))
    except OSError as error:
        return tell(DataError(f"{path}: cannot be read ({error.strerror or error})"))
    if empty:
        tell(DataError(f"{path}: there are no rows"))
    return None


def _csv(path: Path) -> Found:
    return _table(path, ",", "commas")


def _tsv(path: Path) -> Found:
    return _table(path, "\t", "tabs")


def _table(path: Path, delimiter: str, called: str) -> Found:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = _cells(file, delimiter)
        begins, header = next(rows, (1, []))
        if isinstance(header, str):
            yield begins, header
            return
        if twice := _twice(header):
            yield begins, f"the column '{twice[0]}' is there twice"
            return
        for begins, cells in rows:
            if isinstance(cells, str):
                yield begins, cells
            elif len(cells) != len(header):
                yield (
                    begins,
                    f"{len(cells)} fields where the header has {len(header)}; "
                    f"quote texts that hold {called}",
                )
            else:
                yield begins, dict(zip(header, cells, strict=True))


def _cells(file: Any, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """First line and fields of every row that is not blank; a quoted text may span lines."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    begins = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield begins, f"not CSV ({error}); close every quote and double those inside a text"
        else:
            if cells is None:
                return
            if cells:
                yield begins, cells
        begins = reader.line_num + 1


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
        record = json.loads(line, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at character {error.pos + 1})"
    except KeyError as error:
        return f"the key '{error.args[0]}' is there twice"
    except (ValueError, RecursionError) as error:  # a number too long, lists too deep
        return f"cannot be read ({error})"
    if not isinstance(record, dict):
        return f"expected a JSON object, got {type(record).__name__}"
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which plain JSON keeps the last of two equal keys in silence."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise KeyError(_twice([key for key, _ in pairs])[0])
    return record


def _parquet(path: Path) -> Found:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            if twice := _twice(schema.names):
                yield None, f"the column '{twice[0]}' is there twice"
                return
            label = named(schema)
            for batch in file.iter_batches():
                for place in range(batch.num_rows):
                    number += 1
                    yield number, _values(batch, place, label)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        if number:
            yield number + 1, f"cannot be read ({reason:.200})"
        else:
            yield None, f"not a Parquet file that can be read ({reason:.200})"


def _values(batch: Any, place: int, label: Any) -> dict[str, Any] | str:
    pairs = zip(batch.schema.names, batch.columns, strict=True)
    try:
        record: dict[str, Any] = label({name: column[place].as_py() for name, column in pairs})
    except (ValueError, OverflowError) as error:  # bytes that are no text, dates out of reach
        return f"cannot be read ({error})"
    return record


FORMATS: dict[str, Callable[[Path], Found]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".txt": _txt,
    ".parquet": _parquet,
}


def _twice(names: list[str]) -> list[str]:
    """Names that are there more than once."""
    return [name for place, name in enumerate(names) if name in names[:place]]


def _first_foreign(path: Path) -> str:
    """Where a file stops being UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"{path}:{number}: the byte {line[error.start]:#04x} is not UTF-8 text"
    return f"{path}: not UTF-8 text"
