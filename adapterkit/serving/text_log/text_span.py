"""Pieces of a text that a log must not show, and the text without them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class TextSpan(NamedTuple):
    """A piece of a text.

    Attributes:
        start, end: First and past-the-last character.
        kind: What it is, such as `EMAIL`.
    """

    start: int
    end: int
    kind: str


def merge_spans(spans: Iterable[TextSpan]) -> list[TextSpan]:
    """Spans in the order of the text, without overlaps: spans that overlap become one, of the kind
    of the longest (of the first, if several are)."""
    groups: list[list[TextSpan]] = []
    end = 0
    for span in sorted(spans, key=lambda one: one.start):
        if groups and span.start < end:
            groups[-1].append(span)
        else:
            groups.append([span])
        end = max(end, span.end)
    return [
        TextSpan(
            group[0].start,
            max(one.end for one in group),
            max(group, key=lambda one: one.end - one.start).kind,
        )
        for group in groups
    ]


def mask_text(text: str, spans: Iterable[TextSpan], longest: int) -> str:
    """A text with the kind of each span in its place: `to <EMAIL>, please`.

    Args:
        text: The text.
        spans: The spans, in any order; they may overlap.
        longest: Characters after which the text is cut. A span that begins before is masked whole.
    """
    parts: list[str] = []
    position = 0
    for start, end, kind in merge_spans(spans):
        if start >= longest:
            break
        parts += [text[position:start], f"<{kind}>"]
        position = end
    return "".join([*parts, text[position:longest], "..." if len(text) > longest else ""])
