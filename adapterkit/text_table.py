"""Tables of plain text for a terminal, a pipe or a file: the same text for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

CONTROL_PICTURES = {
    **{code: 0x2400 + code for code in range(32)},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}
"""Control character to the character that is shown for it: Unicode has pictures for the first 32
and for 0x7F only."""


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Aligns rows in columns, each as wide as its widest cell; nothing is wrapped or cut.

    Control characters are shown as their pictures, so that a text cannot steer the terminal.
    Widths are rich's (two columns for a Chinese character, none for a combining accent). Its own
    table is not used: it takes a millisecond a row.

    Args:
        header: Title of each column.
        rows: Cells of each row, as many as there are columns.
    """
    lines = [
        list(header),
        *[[str(cell).translate(CONTROL_PICTURES) for cell in row] for row in rows],
    ]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def shortened(text: str, width: int) -> str:
    """A text of at most `width` terminal columns, with an ellipsis where it was cut."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"
