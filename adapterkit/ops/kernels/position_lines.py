"""Scores of a token and all distances as one line, for loops of disentangled attention.

The line of a token has its products with the rows of a table of positions, in the order of the
distances. The scores of a query at consecutive keys are thus a part of its line, and those of a key
at consecutive queries a part of the line of the key. Beyond a distance D all distances share one
bucket, so a line has no numbers beyond D but for `PAD` on either side, which vectors may read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from ..bucketing import WIDTH
from .compiling import Counts, helper
from .key_columns import ZERO, write_rows
from .rows import advance, four_rows, weighted_sums
from .simd import floats, load, splat, store, transpose

Rows = tuple[int, int]
"""Address of the first row, and bytes from a row to the next."""

PAD = 2 * WIDTH
"""Numbers of a line before the distance -D, and after D."""


class LineShape(NamedTuple):
    """The lines of the tokens of one sequence.

    Attributes:
        n_buckets: U, the number of buckets of its distances.
        reach: D.
        columns: For each number of a line, which of the buckets it has, int64 `[2 D + 1 + 2 PAD]`.
            Empty if each distance has a bucket of its own, so that the products are in order.
    """

    n_buckets: int
    reach: int
    columns: Counts

    @classmethod
    def of(cls, index: Counts) -> Self:
        """The lines of n tokens.

        Args:
            index: Which of the U buckets each distance has, `[2 n - 1]`.
        """
        n_buckets, last = int(index.max()) + 1, len(index) // 2
        if np.array_equal(index, np.arange(len(index))):
            return cls(n_buckets, last, np.empty(0, np.int64))
        before_other = np.flatnonzero(np.diff(index)) - last
        reach = int(np.abs([before_other, before_other + 1]).max(initial=0))
        distances = np.arange(-reach - PAD, reach + PAD + 1).clip(-reach, reach)
        return cls(n_buckets, reach, index[last + distances])


@dataclass(frozen=True)
class LineSpans:
    """The lines of each of N sequences.

    Attributes:
        starts: First of the buckets of each sequence, then their number.
        reach: D of each.
        column_starts: First of the columns of each; -1 if it has none.
        columns: The columns of all.
    """

    starts: Counts
    reach: Counts
    column_starts: Counts
    columns: Counts

    @classmethod
    def of(cls, shapes: Sequence[LineShape]) -> Self:
        """The lines of sequences; those of one length have the same shape."""
        places, columns, end = {}, [], 0
        for shape in shapes:
            if id(shape) not in places:
                places[id(shape)] = end if len(shape.columns) else -1
                columns.append(shape.columns)
                end += len(shape.columns)
        return cls(
            np.cumsum([0, *(shape.n_buckets for shape in shapes)]),
            np.array([shape.reach for shape in shapes]),
            np.array([places[id(shape)] for shape in shapes]),
            np.concatenate(columns),
        )

    @property
    def arrays(self) -> tuple[Counts, Counts, Counts, Counts]:
        """The arrays as loops take them."""
        return self.starts, self.reach, self.column_starts, self.columns


@helper
def line_width(reach: int) -> int:
    """Numbers of a line."""
    return 2 * (reach + PAD) + 1


@helper
def table_step(n: int) -> int:
    """Bytes from a row of n transposed positions to the next; few share a cache line."""
    return 4 * WIDTH * (-(-n // WIDTH) + 1)


@helper
def transpose_positions(
    table: Rows, rows: Counts, first: int, end: int, d: int, target: int, buffer: int
) -> None:
    """Transposes d columns of the rows `rows[first:end]` of a table.

    Args:
        target: Room for `table_step(end - first)` bytes of each column.
        buffer: Room for sixteen rows.
    """
    x, step = table
    width = table_step(end - first)
    for j in range(first, end, WIDTH):
        count = min(WIDTH, end - j)
        for u in range(count):
            for c in range(0, 4 * d, 4 * WIDTH):
                store(buffer + u * 4 * d + c, load(x + rows[j + u] * step + c))
        for c in range(0, d, WIDTH):
            to = target + c * width + 4 * (j - first)
            transpose(buffer + 4 * c, 4 * d, count, to, width)


@helper
def write_lines(
    lines: int,
    tokens: Rows,
    n: int,
    d: int,
    positions: Rows,
    shape: tuple[int, int],
    columns: Counts,
    descends: bool,
    buffer: int,
) -> None:
    """Writes the lines of n tokens.

    Args:
        tokens: Queries or keys.
        positions: Address and number of transposed positions; if the lines descend, the position
            of the last bucket comes first.
        shape: D, and the first of the columns, or -1.
        descends: Whether lines begin with the greatest distance.
        buffer: Room for four rows of `table_step` bytes.
    """
    table, n_positions = positions
    reach, at = shape
    width, size = line_width(reach), table_step(n_positions)
    zero = splat(ZERO)
    for i in range(0, n, 4):
        rows = four_rows(tokens[0], tokens[1], i, n - 1)
        targets = four_rows(lines, 4 * width, i, n - 1)
        products = four_rows(buffer, size, 0, 3) if at >= 0 else advance(targets, 4 * PAD)
        for j in range(0, 4 * n_positions, 4 * WIDTH):
            sums = weighted_sums(rows, table + j, size, d, (zero, zero, zero, zero))
            write_rows(products, j, sums)
        for u in range(min(4, n - i)):
            line, source = floats(targets[u]), floats(products[u])
            if at < 0:
                for k in range(PAD):
                    line[k] = ZERO
                    line[width - 1 - k] = ZERO
            elif descends:
                for k in range(width):
                    line[width - 1 - k] = source[n_positions - 1 - columns[at + k]]
            else:
                for k in range(width):
                    line[k] = source[columns[at + k]]
