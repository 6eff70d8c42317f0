"""Answers as a table and as files."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from ..atomic import check_output, write_output
from ..text_table import shortened, table

if TYPE_CHECKING:
    from ..tasks.types import Text


def request_columns(text: Text) -> Mapping[str, Any]:
    """What was asked, by name of a column: the values by role, or `text`."""
    return text if isinstance(text, Mapping) else {"text": text}


def answer_row(text: Text, answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with the text that it belongs to."""
    return {**request_columns(text), **answer}


AnswerRows = Iterable[Mapping[str, Any]]
"""Answers that are written, row by row."""


def write_answers(path: Path, rows: AnswerRows) -> None:
    """Writes answers as `.csv` (nested values as JSON), `.jsonl` or `.json`, whole or not at all.

    The rows are written as they come, so they need not fit into memory.

    Raises:
        DataError: The file has another ending, or cannot be written.
    """
    check_output(path, FORMATS)
    write_output(path, (part.encode() for part in FORMATS[path.suffix](rows)))


def json_parts(rows: AnswerRows) -> Iterator[str]:
    """Yields the parts of a JSON array, as `json_text` writes it, and a line end."""
    before = "[\n"
    for row in rows:
        yield before + indent(_to_json(row, 2), "  ")
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _jsonl(rows: AnswerRows) -> Iterator[str]:
    for row in rows:
        yield _to_json(row) + "\n"


def _csv(rows: AnswerRows) -> Iterator[str]:
    """Yields a CSV file with the columns of all rows.

    The header is only known after the last row, so the rows wait in a temporary file.
    """
    columns: dict[str, None] = {}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as waiting:
        for row in rows:
            columns |= dict.fromkeys(row)
            waiting.write(_to_json({key: _cell(value) for key, value in row.items()}) + "\n")
        waiting.seek(0)
        yield _csv_line(columns)
        for line in waiting:
            cells = json.loads(line)
            yield _csv_line([cells.get(column) for column in columns])


def _csv_line(cells: Iterable[Any]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)  # with "\r\n": a cell with either of them is quoted
    return _escaped(out.getvalue().removesuffix("\r\n") + "\n")


def _cell(value: Any) -> Any:
    if isinstance(value, (Mapping, list, tuple)):
        return _to_json(value)
    return "" if value is None else value if isinstance(value, (int, float)) else str(value)


def _to_json(value: Any, spaces: int | None = None) -> str:
    """JSON of a value; what JSON has no type for, such as a date of a Parquet file, is a text. NaN,
    by which a Parquet file marks a missing number, is null."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=spaces, default=str, allow_nan=False)
    except ValueError:
        plain = _with_finite_numbers(value)
        text = json.dumps(plain, ensure_ascii=False, indent=spaces, default=str)
    return _escaped(text)


def _with_finite_numbers(value: Any) -> Any:
    """A value with null in place of NaN, and a text in place of an infinite number."""
    if isinstance(value, Mapping):
        return {key: _with_finite_numbers(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_finite_numbers(inner) for inner in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _escaped(text: str) -> str:
    """A text whose lone surrogates, which a column of the input may hold, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


TEXT_WIDTH = 72
"""Terminal columns of a text in the table."""

FORMATS: dict[str, Callable[[AnswerRows], Iterator[str]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".json": json_parts,
}


def answers_table(
    adapters: Sequence[str], texts: Sequence[Text], summaries: Sequence[tuple[str, float | None]]
) -> str:
    """Answers as a table: adapter, answer, score, text.

    Args:
        adapters: Name of the adapter that gave each answer.
        texts: What it was asked.
        summaries: Its answer in one line and its score, as `Task.summary` gives them.
    """
    rows = zip(adapters, texts, summaries, strict=True)
    return table(
        ["adapter", "answer", "score", "text"],
        [
            [adapter, _line(summary), _score(score), _line(_first_text(text))]
            for adapter, text, (summary, score) in rows
        ],
    )


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _first_text(text: Text) -> str:
    """What was asked: a text, several texts, or the first text of values by role."""
    if isinstance(text, Mapping):
        text = next((value for value in text.values() if _is_words(value)), "")
    return text if isinstance(text, str) else " | ".join(text)


def _is_words(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(part, str) for part in value)
    return isinstance(value, str)


def _line(text: str) -> str:
    """A text on one line, cut to the width of a column."""
    return shortened(" ".join(text.split()), TEXT_WIDTH)
