"""What the figures of plots share: colours, titles, fonts, and their PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cache
from textwrap import fill
from typing import Any

INK, ACCENT, GRID, BLUE = "#333333", "#d1495b", "#dddddd", "#2e6f95"
OWN_FONT = "DejaVu Sans"
"""The font that comes with Matplotlib."""
TITLE: dict[str, Any] = {"x": 0.02, "ha": "left", "color": INK, "fontsize": 11, "parse_math": False}
TITLE_CHARACTERS = 10.5
"""Characters of a title in an inch."""


def new_figure(width: float, height: float) -> Any:
    """A figure of a size in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    return Figure(figsize=(width, height), dpi=120, layout=layout)


def add_title(figure: Any, title: str) -> None:
    """Writes a title in as many lines as the figure's width needs."""
    figure.suptitle(fill(title, int(TITLE_CHARACTERS * figure.get_figwidth())), **TITLE)


def png(figure: Any) -> bytes:
    """A figure as PNG of 128 colours: it looks the same and has a third of the bytes."""
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png")
    with Image.open(full) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
            small, format="png", optimize=True
        )
    return small.getvalue()


@cache
def font_families(characters: str) -> list[str] | None:
    """Matplotlib's own font, and if it lacks characters an installed one that has the rest."""
    from matplotlib import font_manager

    lacking = _missing(characters, font_manager.findfont(OWN_FONT))
    if not lacking:
        return [OWN_FONT]
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: entry.name):
        # Matplotlib's "last resort" has every character, as a box.
        if not entry.name.startswith("Last Resort") and not _missing(lacking, entry.fname):
            return [OWN_FONT, entry.name]
    return None


def _missing(characters: Iterable[str], font: str) -> str:
    """The characters that a font file lacks."""
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font).get_charmap()
    return "".join(c for c in characters if ord(c) not in known)
