"""Kinds of values in columns: texts, words, labels, numbers, spans, ..., each with its check."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import DataError
from ..schema import is_text

Fields = Mapping[str, Any]
"""Values of one row by role (`text`, `label`, `tokens`, ...)."""

SEPARATOR = "|"
"""Separates the items of a list in one CSV field."""

NUMBERS = re.compile(r"\s*[0-9]{1,9}\s*(\|\s*[0-9]{1,9}\s*)*")
"""A list of numbers in one CSV field."""


@dataclass(frozen=True)
class FieldKind:
    """A kind of values: one of those below, or one that a task defines itself.

    Attributes:
        name: Its name in the server's description of an adapter. The page has a form for the kinds
            below, and a box for JSON for all others.
        check: Returns the value as tasks read it. Takes a value of a file or a request, and where
            it stands, for messages. Raises `DataError` if the value is not of the kind.
    """

    TEXT: ClassVar[FieldKind]
    """A text that is not empty."""

    TOKENS: ClassVar[FieldKind]
    """A list of words, or words with blanks between them."""

    LABELS: ClassVar[FieldKind]
    """A list of distinct labels, perhaps empty, or labels with | between them."""

    CHOICES: ClassVar[FieldKind]
    """A list of at least two texts, or texts with | between them."""

    NUMBER: ClassVar[FieldKind]
    """A finite number."""

    SPAN: ClassVar[FieldKind]
    """Two character positions of a text, {start, end}."""

    ANSWERS: ClassVar[FieldKind]
    """Answers in a text as SQuAD has them, {text, answer_start}."""

    SENTENCES: ClassVar[FieldKind]
    """A text, or the list of its sentences."""

    SUMMARY: ClassVar[FieldKind]
    """Numbers of sentences from 0, or a text."""

    name: str
    check: Callable[[Any, str], Any]


def _text(value: Any, where: str) -> str:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if is_integer or (isinstance(value, float) and math.isfinite(value)):
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
    return tuple(_text(part, f"{where}[{index}]") for index, part in enumerate(value))


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
    is_pair = isinstance(ends, (list, tuple)) and [type(end) for end in ends] == [int, int]
    if not is_pair or not 0 <= ends[0] < ends[1]:
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


FieldKind.TEXT = FieldKind("text", _text)
FieldKind.TOKENS = FieldKind("tokens", _tokens)
FieldKind.LABELS = FieldKind("labels", _labels)
FieldKind.CHOICES = FieldKind("choices", _choices)
FieldKind.NUMBER = FieldKind("number", _number)
FieldKind.SPAN = FieldKind("span", _span)
FieldKind.ANSWERS = FieldKind("answers", _answers)
FieldKind.SENTENCES = FieldKind("sentences", _sentences)
FieldKind.SUMMARY = FieldKind("summary", _summary)
