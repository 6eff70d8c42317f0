"""A tokenised text before it is cut to a limit: its tokens, their characters and their words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any


class EncodedText:
    """One tokenised text, or two as a pair, in full.

    The library tokenizers builds a whole list at every access to a property of its `Encoding`.
    Here each list is built once, when it is first used, so reading it token by token takes linear
    time.

    Args:
        encoding: The `Encoding` of the library.
        has_types: Whether the model is told of token types; they are all 0 otherwise.
        leads: Number of characters, for each word of a list, that were put before it.
    """

    def __init__(self, encoding: Any, *, has_types: bool = True, leads: Sequence[int] = ()) -> None:
        self._encoding = encoding
        self._has_types = has_types
        self._leads = leads

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> list[int]:
        """Id of each token."""
        return list(self._encoding.ids)

    @cached_property
    def type_ids(self) -> list[int]:
        """Token type (segment) of each token."""
        return list(self._encoding.type_ids) if self._has_types else [0] * len(self)

    @cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """First and past-the-last character of each token; in a list of words, in its word."""
        offsets: list[tuple[int, int]] = list(self._encoding.offsets)
        if not any(self._leads):
            return offsets
        found = []
        for word, (start, end) in zip(self.word_ids, offsets, strict=True):
            lead = 0 if word is None else self._leads[word]
            found.append((max(0, start - lead), max(0, end - lead)))
        return found

    @cached_property
    def word_ids(self) -> list[int | None]:
        """Number of the word of each token; None for special tokens."""
        return list(self._encoding.word_ids)

    @cached_property
    def sequence_ids(self) -> list[int | None]:
        """Number of the text of each token, 0 or 1; None for special tokens."""
        return list(self._encoding.sequence_ids)
