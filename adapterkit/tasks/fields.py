"""Kinds of values in columns: texts, words, labels, numbers, spans, ..., each with its check."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import DataError
from ..schema import is_text
from .labels import spelling

Fields = Mapping[str, Any]
"""Values of one row by role (`text`, `label`, `tokens`, ...)."""

SEPARATOR = "|"
"""Separates the items of a list in one CSV field."""

NUMBERS = re.compile(r"\s*[0-9]{1,9}\s*(\|\s*[0-9]{1,9}\s*)*")
"""A list of numbers in one CSV field."""

QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
WRITTEN_LIST = re.compile(rf"[\[({{]\s*(?:{QUOTED}\s*(?:,\s*{QUOTED}\s*)*,?\s*)?[\])}}]", re.DOTALL)
"""A list, tuple or set of texts as Python or JSON writes it, which a table holds as one text."""

ONE_HOT = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""Values of a column for one label, in lower case: whether the row has the label."""


@dataclass(frozen=True)
class FieldKind:
    """A kind of values: one of those below, or one that a task defines itself.

    Attributes:
        name: Its name in the server's description of an adapter. The page has a form for the kinds
            below, and a box for JSON for all others.
        check: Returns the value as tasks read it. Takes a value of a file or a request, and where
            it stands, for messages. Raises `DataError` if the value is not of the kind.
        example: A value of the kind, for the example of a request in an adapter's README.
        several_columns: Whether a recipe may name several columns for the role; `check` then takes
            their values by name.
    """

    TEXT: ClassVar[FieldKind]
    """A text that is not empty."""

    TOKENS: ClassVar[FieldKind]
    """A list of words, or words with blanks between them."""

    LABEL: ClassVar[FieldKind]
    """A label: a text, a number or a boolean, in the spelling of `labels.py`."""

    TAGS: ClassVar[FieldKind]
    """A list of tags, or tags with blanks between them."""

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
    several_columns: bool = False
    example: Any = "a text"


def _text(value: Any, where: str) -> str:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if is_integer or (isinstance(value, float) and math.isfinite(value)):
        value = str(value)
    if not is_text(value):
        raise DataError(f"{where}: expected a text, got {value!r:.60}")
    if not value.strip():
        raise DataError(f"{where} is empty; fill it or leave the row out")
    return str(value)


def _label(value: Any, where: str) -> str:
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    label = spelling(_text(value, where))
    if not label:
        raise DataError(f"{where} is empty; fill it or leave the row out")
    if WRITTEN_LIST.fullmatch(label) or (label[0], label[-1]) == ("[", "]"):
        raise DataError(
            f"{where}: {label!r:.60} is a list that was written as a text; a single label has no "
            "brackets, and a task with several labels a row reads lists"
        )
    return label


def _list(value: Any, where: str, separator: str | None) -> tuple[str, ...]:
    items = _items(value, where, separator)
    return tuple(_text(part, f"{where}[{index}]") for index, part in enumerate(items))


def _items(value: Any, where: str, separator: str | None) -> Sequence[Any]:
    if isinstance(value, str):
        written = _written_list(value, where)
        value = value.split(separator) if written is None else written
        return [part for part in value if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: expected a list of texts, got {value!r:.60}")
    return value


def _written_list(text: str, where: str) -> list[str] | None:
    """The items of a list of texts that a table holds as one text; None if the text is none.

    Raises:
        DataError: It begins and ends like one but is not: NumPy writes no commas, for example.
    """
    text = text.strip()
    is_list = WRITTEN_LIST.fullmatch(text) is not None
    if is_list:
        with suppress(SyntaxError, ValueError):  # a line end or a wrong escape inside quotes
            return [*ast.literal_eval(f"[{text[1:-1]}]")]
    is_like_one = text[:1] in "[(" and text[1:2] in "'\"" and text[-1:] in ")]" and len(text) > 2
    if is_list or is_like_one:
        raise DataError(
            f"{where}: {text!r:.60} looks like a list that was written as a text, and its items "
            "cannot be read; write it as JSON, or put | or blanks between the items"
        )
    return None


def _tokens(value: Any, where: str) -> tuple[str, ...]:
    """A token may be white space, as in texts that were split into characters."""
    items = _items(value, where, None)
    tokens = tuple(
        item if is_text(item) and item.isspace() else _text(item, f"{where}[{index}]")
        for index, item in enumerate(items)
    )
    if all(map(str.isspace, tokens)):
        raise DataError(f"{where} is empty; fill it or leave the row out")
    return tokens


def _words(value: Any, where: str) -> tuple[str, ...]:
    words = _list(value, where, None)
    if not words:
        raise DataError(f"{where} is empty; fill it or leave the row out")
    return words


def _tags(value: Any, where: str) -> tuple[str, ...]:
    tags = tuple(spelling(tag) for tag in _words(value, where))
    for index, tag in enumerate(tags):
        if _is_piece_of_list(tag):
            raise DataError(
                f"{where}[{index}]: {tag!r:.60} is a piece of a list that was written as a text; "
                "give a list, or tags with blanks between them"
            )
    return tags


def _is_piece_of_list(tag: str) -> bool:
    """Whether a tag is an item of a written list that was cut at its blanks: `['O',` or `'O']`."""
    inner = tag.strip("[](){},")
    is_quoted = len(inner) > 2 and inner[0] == inner[-1] and inner[0] in "'\""
    return is_quoted and inner != tag and any(map(str.isalnum, inner))


def _labels(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        value = [name for name, given in value.items() if _one_hot(given, f"{where}: {name!r}")]
    if isinstance(value, str):
        _check_is_no_vector(value, where)
    items = _items(value, where, SEPARATOR)
    is_repeated = len({*map(str, items)}) < len(items)
    if is_repeated and all(str(item).lower() in ONE_HOT for item in items):
        raise _multi_hot(value, where)
    return tuple(sorted({_label(item, f"{where}[{index}]") for index, item in enumerate(items)}))


def _check_is_no_vector(text: str, where: str) -> None:
    """Refuses numbers 0 and 1 with commas or blanks between them, in brackets or not."""
    numbers = text.strip("[] ").replace(",", " ").replace(";", " ").split()
    if len(numbers) > 1 and all(number.rstrip(".") in ONE_HOT for number in numbers):
        raise _multi_hot(text, where)


def _multi_hot(value: Any, where: str) -> DataError:
    return DataError(
        f"{where}: {value!r:.60} is a vector of zeros and ones and does not name the labels; "
        "write their names, or a column a label: data: {labels: [toxic, insult]}"
    )


def _one_hot(value: Any, where: str) -> bool:
    """Whether a row has a label, from the label's own column.

    Raises:
        DataError: It is neither 0 nor 1, true nor false.
    """
    written = str(value).strip().lower()
    if written not in ONE_HOT:
        raise DataError(f"{where}: expected 0 or 1 in the column of a label, got {value!r:.60}")
    return ONE_HOT[written]


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
    if isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value):
        keys = ("text", "answer_start")
        value = {key: [item.get(key) for item in value] for key in keys}
    texts = value.get("text") if isinstance(value, Mapping) else None
    starts = value.get("answer_start") if isinstance(value, Mapping) else None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise DataError(
            f"{where}: expected {{text: [...], answer_start: [...]}}, as many of each, or a list "
            f"of {{text, answer_start}}, got {value!r:.60}"
        )
    are_places = all(type(start) is int and start >= 0 for start in starts)
    if not all(is_text(t) for t in texts) or not are_places:
        raise DataError(f"{where}: expected texts and whole numbers from 0, got {value!r:.60}")
    return tuple(zip(texts, starts, strict=True))


def _sentences(value: Any, where: str) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return _text(value, where)
    return _words(value, where)


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
FieldKind.TOKENS = FieldKind("tokens", _tokens, example=["some", "words"])
FieldKind.LABEL = FieldKind("label", _label)
FieldKind.LABELS = FieldKind("labels", _labels, several_columns=True)
FieldKind.TAGS = FieldKind("tags", _tags)
FieldKind.CHOICES = FieldKind("choices", _choices, example=["one choice", "another choice"])
FieldKind.NUMBER = FieldKind("number", _number)
FieldKind.SPAN = FieldKind("span", _span)
FieldKind.ANSWERS = FieldKind("answers", _answers)
FieldKind.SENTENCES = FieldKind("sentences", _sentences, example="A first sentence. A second one.")
FieldKind.SUMMARY = FieldKind("summary", _summary)
