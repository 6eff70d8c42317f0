"""Tokenising texts for the engine, and its price before the tokens are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from ...adapter.adapter import Adapter
from ...inference.backbones import Backbones
from ...inference.pipeline import encode_rows
from ...tasks.types import Example, Text

T = TypeVar("T")

CHARACTERS_PER_TOKEN = 4
"""Characters of a token in an English text, from which the tokens of a text are estimated."""


class TextRow(NamedTuple):
    """One row to tokenise.

    Attributes:
        adapter: The adapter that answers it; None for the plain backbone.
        text: Its text.
        name: How messages call its text.
    """

    adapter: Adapter | None
    text: Text
    name: str


def estimate_tokens(n_characters: int) -> int:
    """About how many tokens a text has, at least one."""
    return 1 + n_characters // CHARACTERS_PER_TOKEN


def tokenize_rows(backbones: Backbones, rows: Sequence[TextRow]) -> list[Example | Exception]:
    """Tokenises rows one by one: for each its example, or the error that prevented it."""
    found: list[Example | Exception] = []
    for row in rows:
        try:
            found += backbones.map(encode_rows, [row])
        except Exception as error:
            found.append(error)
    return found


def call_each(calls: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Does calls one by one: for each its result, or the error that prevented it."""
    found: list[T | Exception] = []
    for call in calls:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)
    return found
