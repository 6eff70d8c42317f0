"""Rows in the body of a request: texts, pairs, values by role, and batches of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

EXPECTED = 'expected a text, two texts, values by role, or a batch of those: [["a"], ["b"]]'


def check_row(value: Any, where: str = "") -> Any:
    """Checks a text, a list of one or two texts, or values by role.

    Args:
        value: The value.
        where: Its place in the body, after the key: `[1]`.

    Raises:
        ValueError: It is something else, or a text is empty.
    """
    if isinstance(value, list):
        check_texts(value, where)
        if len(value) > 2:
            raise ValueError(_at(where, f"expected one or two texts, got {len(value)}"))
    elif not isinstance(value, dict):
        _check_text(value, where, EXPECTED)
    return value


def check_texts(value: Any, where: str = "") -> Any:
    """Checks a list of texts. Raises as `check_row`."""
    if not isinstance(value, list):
        raise ValueError(_at(where, "expected a list of texts"))
    if not value:
        raise ValueError(_at(where, f"the list is empty; {EXPECTED}"))
    for index, text in enumerate(value):
        _check_text(text, f"{where}[{index}]", "expected a text")
    return value


def check_text_or_texts(value: Any) -> Any:
    """Checks a text or a list of texts. Raises as `check_row`."""
    if isinstance(value, list):
        return check_texts(value)
    _check_text(value, "", "expected a text or a list of texts")
    return value


def check_inputs(value: Any) -> Any:
    """Checks a row, a list of texts, or a batch of rows. Raises as `check_row`."""
    if not isinstance(value, list) or not value:
        return check_row(value)
    if isinstance(value[0], str):
        return check_texts(value)
    for index, row in enumerate(value):
        if not isinstance(row, (list, dict)):
            raise ValueError(_at(f"[{index}]", EXPECTED))
        check_row(row, f"[{index}]")
    return value


def _check_text(value: Any, where: str, expected: str) -> None:
    if not isinstance(value, str):
        raise ValueError(_at(where, expected))
    if not value:
        raise ValueError(_at(where, "the text is empty"))


def _at(where: str, fault: str) -> str:
    return f"{where}: {fault}" if where else fault


# The checks are plain functions, because the errors that pydantic finds in a union name each of its
# types. The schemas are the description of the same.

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_PAIR = {**_TEXTS, "maxItems": 2}
_VALUES = {"type": "object", "additionalProperties": True}
_BATCH = {"type": "array", "items": {"anyOf": [_PAIR, _VALUES]}, "minItems": 1}

Row = Annotated[Any, PlainValidator(check_row), WithJsonSchema({"anyOf": [_TEXT, _PAIR, _VALUES]})]
"""A text, a list of one or two texts, or values by role (question and context, tokens, ...)."""

Inputs = Annotated[
    Any,
    PlainValidator(check_inputs),
    WithJsonSchema({"anyOf": [_TEXT, _TEXTS, _VALUES, _BATCH]}),
]
"""A row, a list of texts, or a batch of rows."""

Texts = Annotated[Any, PlainValidator(check_texts), WithJsonSchema(_TEXTS)]
"""A list of texts."""

TextOrTexts = Annotated[
    Any, PlainValidator(check_text_or_texts), WithJsonSchema({"anyOf": [_TEXT, _TEXTS]})
]
"""A text or a list of texts."""
