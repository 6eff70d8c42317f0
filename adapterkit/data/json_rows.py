"""Rows of JSONL and JSON files, SQuAD's own format included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .file_format import FileFormat
from .tables import NumberedRows, repeated


def read_jsonl(path: Path, file_format: FileFormat) -> NumberedRows:
    """Yields the rows of a .jsonl file: an object a line."""
    with path.open(encoding=file_format.codec, newline="") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                record = _parse(line.rstrip("\r\n"))
                yield number, record if isinstance(record, str) else _row(record)


def read_json(path: Path, file_format: FileFormat) -> NumberedRows:
    """Yields the rows of a .json file: an array of objects, or an object that has one as `data`.

    Articles with `paragraphs` in that array are questions in the format of SQuAD (Rajpurkar et al.
    2016, 2018): each question is a row with the columns id, title, context, question and answers.
    """
    content = _parse(path.read_text(encoding=file_format.codec))
    if isinstance(content, str):
        yield None, content
        return
    records = content.get("data") if isinstance(content, dict) else content
    if not isinstance(records, list):
        yield (
            None,
            "expected an array of objects, or an object that has one as 'data' "
            f"(pandas writes one with orient='records'), got {type(records).__name__}",
        )
        return
    if any(isinstance(record, dict) and "paragraphs" in record for record in records):
        yield from enumerate(_questions(records), start=1)
        return
    for number, record in enumerate(records, start=1):
        yield number, _row(record)


def _row(record: Any) -> dict[str, Any] | str:
    if isinstance(record, dict):
        return record
    if isinstance(record, list):
        return "expected a JSON object, got list; a file with an array of objects ends in .json"
    return f"expected a JSON object, got {type(record).__name__}"


def _parse(text: str) -> Any:
    """A JSON value, never a text: that says what is wrong."""
    try:
        value = json.loads(text, object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"not JSON ({error.msg} at {place}character {error.colno})"
    except KeyError as error:
        return f"the key '{error.args[0]}' is there twice"
    except (ValueError, RecursionError) as error:  # a number too long, lists too deep
        return f"cannot be read ({error})"
    return "expected a JSON object, got str" if isinstance(value, str) else value


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. The parser would keep the last of two equal keys without a message.

    Raises:
        KeyError: A key is repeated.
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        raise KeyError(repeated([key for key, _ in pairs])[0])
    return record


def _questions(articles: list[Any]) -> Iterator[dict[str, Any] | str]:
    """Yields the questions of SQuAD's articles as rows."""
    for place, article in enumerate(articles):
        try:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield {
                        "id": question.get("id"),
                        "title": article.get("title"),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": question["answers"],
                    }
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            yield f"data[{place}] is not in SQuAD's format ({reason})"
