"""Token ids in the body of a request: a list of them, or a batch of lists."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

MAX_ID = 2**31 - 1
"""Largest id that any tokenizer has."""


def check_token_ids(value: Any) -> list[list[int]]:
    """Checks token ids.

    Args:
        value: A list of ids, or a list of such lists.

    Returns:
        The lists.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of token ids, or a list of such lists")
    is_batch = isinstance(value[0], list)
    for index, ids in enumerate(value if is_batch else [value]):
        where = f"[{index}]" if is_batch else ""
        if not isinstance(ids, list) or not ids:
            raise ValueError(f"{where}: expected a list of token ids")
        for place, one in enumerate(ids):
            if type(one) is not int or not 0 <= one <= MAX_ID:
                raise ValueError(f"{where}[{place}]: expected a token id, a whole number from 0")
    return value if is_batch else [value]


_ID = {"type": "integer", "minimum": 0, "maximum": MAX_ID}
_IDS = {"type": "array", "items": _ID, "minItems": 1}
_BATCH = {"type": "array", "items": _IDS, "minItems": 1}

TokenIds = Annotated[
    Any, PlainValidator(check_token_ids), WithJsonSchema({"anyOf": [_IDS, _BATCH]})
]
"""A list of token ids for each text."""
