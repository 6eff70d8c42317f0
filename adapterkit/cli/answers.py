"""Answers as a table and as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import check_output, write_output
from ..text_table import shortened, table

if TYPE_CHECKING:
    from ..tasks.types import Text


def answer_row(text: Text, answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with the text that it belongs to."""
    return {**(text if isinstance(text, Mapping) else {"text": text}), **answer}


def write_answers(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes answers as `.csv` (nested values as JSON), `.jsonl` or `.json`, whole or not at all.

    Raises:
        DataError: The file has another ending, or cannot be written.
    """
    check_output(path, FORMATS)
    write_output(path, FORMATS[path.suffix](rows).encode())


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(rows), ensure_ascii=False, indent=2) + "\n"


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False)


TEXT_WIDTH = 72
"""Terminal columns of a text in the table."""

FORMATS = {".csv": _csv, ".jsonl": _jsonl, ".json": _json}


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
