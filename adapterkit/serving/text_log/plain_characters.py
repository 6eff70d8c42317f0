"""Characters of the same meaning as one, so that a pattern need not list them."""

from __future__ import annotations

import unicodedata

MOST_KEPT = 20_000
"""Most characters whose plain one is stored; that of others is found again each time."""

DASHES = "\N{MINUS SIGN}\N{KATAKANA-HIRAGANA PROLONGED SOUND MARK}"
"""Dashes whose category is not that of dashes."""


class PlainCharacters(dict[int, str]):
    """A table for `str.translate` that gives each character exactly one in its place, so positions
    in the text stay as they are.

    White space of each kind becomes a space, dashes and characters without a width become `-`, and
    digits of each script become those of ASCII. Marks such as a combining accent, which a letter
    has in the Unicode form NFD, become `_`, which is a part of words. Other compatibility
    characters, such as full-width letters and signs, become what they stand for (NFKC).
    """

    def __missing__(self, code: int) -> str:
        found = _plain(chr(code))
        if len(self) < MOST_KEPT:
            self[code] = found
        return found


def _plain(character: str) -> str:
    if character.isspace():
        return " "
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    category = unicodedata.category(character)
    if category in ("Pd", "Cf") or character in DASHES:
        return "-"
    if category.startswith("M"):
        return "_"
    normal = unicodedata.normalize("NFKC", character)
    return normal if len(normal) == 1 else character


PLAIN_CHARACTERS = PlainCharacters()
