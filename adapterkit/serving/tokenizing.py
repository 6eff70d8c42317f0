"""Tokenising texts for the engine, and its price before the tokens are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..inference.pipeline import encode_requests
from ..tasks.types import Example, Text

CHARACTERS_PER_TOKEN = 4
"""Characters of a token in an English text, from which the tokens of a text are estimated."""


@dataclass(frozen=True)
class TextRow:
    """One row to tokenise.

    Attributes:
        name: How messages call its text.
        adapter: The adapter that answers it; None for the plain backbone.
        text: Its text.
    """

    name: str
    adapter: Adapter | None
    text: Text


def estimate_tokens(n_characters: int) -> int:
    """About how many tokens a text has, at least one."""
    return 1 + n_characters // CHARACTERS_PER_TOKEN


def tokenize_rows(backbone: Backbone, rows: Sequence[TextRow]) -> list[Example | Exception]:
    """Tokenises rows one by one: for each its example, or the error that prevented it."""
    found: list[Example | Exception] = []
    for row in rows:
        try:
            found += encode_requests(backbone, [row.adapter], [row.text], [row.name])
        except Exception as error:
            found.append(error)
    return found
