"""The sentences of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence

END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’)\]»]*+(?=\s|$)|[。！？]+[”’」』）》]*|\n"  # noqa: RUF001
)
"""A possible end of a sentence: a sign and closing quotes or brackets, or the end of a line. A run
of signs is tried once, from its first sign, so that a long run takes linear time."""

ABBREVIATION = re.compile(r"(^|[^\w.])([A-HJ-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Sra)\.$")
"""A title or an initial, whose full stop does not end a sentence."""

ABBREVIATION_LENGTH = 6
"""Most characters of an abbreviation, its full stop and the character before it."""

FOLLOWING = re.compile(r"[^\S\n]*(\S?)")
"""The first character after a sign that is not blank, in the same line."""

CHINESE_END = re.compile(r"[。！？]+[”’」』）》]*$")  # noqa: RUF001


def split_sentences(text: str) -> list[tuple[int, int]]:
    """First and past-the-last character of each sentence of a text, without blanks around it.

    A sentence ends at `.`, `!`, `?` or `…` before a blank unless a small letter follows, at `。`,
    `！` or `？` anywhere, and at the end of a line. It does not end after a title, after an initial
    or before it has a letter (the number of a list item).
    """  # noqa: RUF002
    spans, start, read, has_letter = [], 0, 0, False
    for match in END.finditer(text):
        has_letter = has_letter or any(map(str.isalpha, text[read : match.end()]))
        read = match.end()
        if match.group() == "\n" or (has_letter and not _continues(text, start, match)):
            spans.append((start, read))
            start, has_letter = read, False
    spans.append((start, len(text)))
    return [
        (start + len(part) - len(part.lstrip()), start + len(part.rstrip()))
        for start, end in spans
        if (part := text[start:end]).strip()
    ]


def _continues(text: str, start: int, sign: re.Match[str]) -> bool:
    """Whether a sentence that begins at `start` continues after a sign."""
    if CHINESE_END.match(sign.group()):
        return False
    following = FOLLOWING.match(text, sign.end())
    if following is not None and following[1].islower():
        return True
    last = text[max(start, sign.end() - ABBREVIATION_LENGTH) : sign.end()]
    return bool(ABBREVIATION.search(last))


def join_sentences(sentences: Sequence[str]) -> str:
    """Joins sentences by spaces, without a space after a Chinese sign."""
    parts = [part if CHINESE_END.search(part) else f"{part} " for part in sentences]
    return "".join(parts).rstrip()
