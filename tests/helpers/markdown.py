"""Fenced code blocks of Markdown pages, with the comments that say how the tests treat them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(
    r"^(?:<!-- (?P<marker>not run|slow): (?P<reason>[^\n]+?) -->\n)?"
    r'```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n'
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced code block.

    Attributes:
        page: The page.
        line: Line number of its first line in the page.
        language: Its language, as after the opening fence.
        title: Name of the file that it shows; None if it is not a file.
        text: Its content.
        marker: `not run` or `slow` if a comment before it says so.
        reason: Why.
    """

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    marker: str | None
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            content.count("\n", 0, match.start("text")) + 1,
            match["language"],
            match["title"],
            match["text"],
            match["marker"],
            match["reason"],
        )
        for match in BLOCK.finditer(content)
    ]
