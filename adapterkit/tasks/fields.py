"""What a column may hold: texts, words, labels, numbers, spans, ..., each with its check."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import DataError
from ..schema import is_text

Fields = Mapping[str, Any]
"""Values of one row by role (`text`, `label`, `tokens`, ...)."""

SEPARATOR = "|"
"""Between the parts of a list that stands in one CSV field."""

NUMBERS = re.compile(r"\s*[0-9]{1,9}\s*(\|\s*[0-9]{1,9}\s*)*")
"""A list of numbers in one CSV field."""


def check_field(kind: str, value: Any, where: str) -> Any:
    """A column's value as its kind of value.

    Args:
        kind: A key of `KINDS`.
        value: As the file has it.
        where: File, row and column, for messages.

    Raises:
        DataError: It is no such value.
    """
    return KINDS[kind](value, where)


def _text(value: Any, where: str) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole or (isinstance(value, float) and math.isfinite(value)):
        value = str(value)
    if not is_text(value):
        raise DataError(f"{where}: expected a text, got {value!r:.60}")
    if not value.strip():
        raise DataError(f"{where} is empty; fill it or leave the row out")
    return str(value)


def _list(value: Any, where: str, separator: str | None) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(separator) if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: expected a list of texts, got {value!r:.60}")
    return tuple(_text(part, f"{where}[{place}]") for place, part in enumerate(value))


def _tokens(value: Any, where: str) -> tuple[str, ...]:
    tokens = _list(value, where, None)
    if not tokens:
        raise DataError(f"{where} is empty; fill it or leave the row out")
    return tokens


def _labels(value: Any, where: str) -> tuple[str, ...]:
    labels = tuple(part.strip() for part in _list(value, where, SEPARATOR))
    return tuple(sorted(set(labels)))


def _choices(value: Any, where: str) -> tuple[str, ...]:
    choices = _list(value, where, SEPARATOR)
    if len(choices) < 2:
        raise DataError(f"{where}: expected at least two choices, got {list(choices)}")
    return choices


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: expected a number, got {value!r:.60}") from None
    if isinstance(value, bool) or not math.isfinite(number):
        raise DataError(f"{where}: expected a number, got {value!r:.60}")
    return number


def _span(value: Any, where: str) -> tuple[int, int]:
    ends: Any = [value.get("start"), value.get("end")] if isinstance(value, Mapping) else value
    whole = isinstance(ends, (list, tuple)) and [type(end) for end in ends] == [int, int]
    if not whole or not 0 <= ends[0] < ends[1]:
        raise DataError(
            f"{where}: expected character positions {{start, end}}, end past the last character, "
            f"got {value!r:.60}"
        )
    return ends[0], ends[1]


def _answers(value: Any, where: str) -> tuple[tuple[str, int], ...]:
    texts = value.get("text") if isinstance(value, Mapping) else None
    starts = value.get("answer_start") if isinstance(value, Mapping) else None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise DataError(
            f"{where}: expected {{text: [...], answer_start: [...]}}, as many of each, "
            f"got {value!r:.60}"
        )
    if not all(is_text(t) for t in texts) or not all(type(start) is int for start in starts):
        raise DataError(f"{where}: expected texts and whole numbers, got {value!r:.60}")
    return tuple(zip(texts, starts, strict=True))


def _sentences(value: Any, where: str) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return _text(value, where)
    return _tokens(value, where)


def _summary(value: Any, where: str) -> str | tuple[int, ...]:
    if isinstance(value, str) and NUMBERS.fullmatch(value):
        value = [int(number) for number in value.split(SEPARATOR)]
    if isinstance(value, str):
        return _text(value, where)
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(
            f"{where}: expected numbers of sentences from 0, or a text, got {value!r:.60}"
        )
    for number in value:
        if type(number) is not int or number < 0:
            raise DataError(f"{where}: expected numbers of sentences from 0, got {number!r:.60}")
    return tuple(value)


KINDS: dict[str, Callable[[Any, str], Any]] = {
    "text": _text,
    "tokens": _tokens,
    "labels": _labels,
    "choices": _choices,
    "number": _number,
    "span": _span,
    "answers": _answers,
    "sentences": _sentences,
    "summary": _summary,
}
