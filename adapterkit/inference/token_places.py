"""Where the tokens of a row stand in its texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..backbone.encoded_text import EncodedText
from ..backbone.packing import TokenSequence
from ..backbone.tokenizer import TextEncoder
from ..tasks.base import Task
from ..tasks.fields import Fields
from ..tasks.types import Example, Part

Place = tuple[str, int, int]
"""Role, and first and past-the-last character in its text."""


@dataclass(frozen=True)
class TokenSource:
    """One sequence of a row.

    Attributes:
        inputs: The sequence, of n tokens.
        parts: The one or two texts in it.
        places: Where each token stands in them, n places; None for special tokens and marks.
    """

    inputs: TokenSequence
    parts: tuple[Part, ...]
    places: tuple[Place | None, ...]


def locate_tokens(
    task: Task, row: Fields, tokenizer: Any, limit: int
) -> tuple[Example, list[TokenSource]]:
    """Tokenises a row, and finds where its tokens stand in its texts.

    Args:
        task: The task that reads the row.
        row: Values by role, checked.
        tokenizer: The backbone's.
        limit: Most tokens of a sequence, special tokens included.
    """
    encoder = _RecordingEncoder(tokenizer)
    (example,) = task.examples([row], encoder, limit)
    parts = task.parts(row)
    places = [_places(*pair) for pair in zip(encoder.encodings, parts, strict=True)]
    sources = []
    for number, inputs in enumerate(example.inputs):
        # Windows share one encoding, choices have one each.
        which = number if len(parts) > 1 else 0
        own = tuple(places[which][index] for index in inputs.indices)
        sources.append(TokenSource(inputs, parts[which], own))
    return example, sources


class _RecordingEncoder(TextEncoder):
    """An encoder that records its encodings: examples do not hold the positions of tokens."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.encodings: list[EncodedText] = []

    def encode(self, *texts: Any, **options: Any) -> list[EncodedText]:
        found = super().encode(*texts, **options)
        self.encodings += found
        return found


def _places(encoding: EncodedText, parts: tuple[Part, ...]) -> list[Place | None]:
    """The place of each token of an encoding; None for special tokens and marks."""
    found: list[Place | None] = []
    tokens = zip(encoding.offsets, encoding.sequence_ids, encoding.word_ids, strict=True)
    for (start, end), owner, word in tokens:
        if owner is None or word is None or start == end:
            found.append(None)
            continue
        span = parts[owner].at(word, start, end)
        found.append(_stripped(parts[owner], *span) if span else None)
    return found


def _stripped(part: Part, start: int, end: int) -> Place | None:
    """A place without the blanks that some tokenizers include in a token."""
    piece = part.text[start:end]
    start, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
    return (part.role, start, end) if start < end else None
