"""Keys of a sequence as columns, sixteen to a vector, which the loops of attention share.

The loops compute four queries against sixteen keys at a time, by weighted sums of rows: of the rows
of values, weighted by attention, for the outputs; of the rows of transposed keys, weighted by the
numbers of a query, for the scores. In a row of transposed keys, a vector holds one number of each
of sixteen keys. The keys of the prefix and those of the text are padded to whole vectors each, and
a mask excludes the padding. If fewer than four queries are left, the last is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bucketing import WIDTH
from .compiling import Counts, helper
from .rows import FourRows
from .simd import floats, fma, load, splat, store, transpose

ZERO, ONE = np.float32(0.0), np.float32(1.0)

MASKED = np.float32(-1e30)
"""A score whose exponential is 0."""


@dataclass(frozen=True)
class KeySpans:
    """The keys of each of N sequences: its prefix and its own tokens.

    Attributes:
        starts: First token of each sequence, then T.
        prefixes: Index of each sequence's first prefix key among all keys.
        n_prefix: Number of prefix keys of each.
    """

    starts: Counts
    prefixes: Counts
    n_prefix: Counts

    @property
    def arrays(self) -> tuple[Counts, Counts, Counts]:
        """The three arrays as loops take them."""
        return self.starts, self.prefixes, self.n_prefix


@helper
def columns_of(n: int, p: int) -> tuple[int, int]:
    """First column of n text keys after p prefix keys, and the number of columns."""
    text = -(-p // WIDTH) * WIDTH
    return text, text - (-n // WIDTH) * WIDTH


@helper
def write_mask(mask: int, n: int, p: int) -> None:
    """Writes the mask, which is added to the scores: one number for each column."""
    text, columns = columns_of(n, p)
    for j in range(columns):
        floats(mask)[j] = ZERO if j < p or text <= j < text + n else MASKED


@helper
def transpose_rows(
    x: int, step: int, d: int, first: int, n: int, prefix: int, p: int, target: int
) -> None:
    """Transposes d columns of p rows from `prefix` on, then of n rows from `first` on."""
    text, columns = columns_of(n, p)
    for c in range(0, d, WIDTH):
        row, size = target + 4 * c * columns, 4 * columns
        for j in range(0, p, WIDTH):
            transpose(x + (prefix + j) * step + 4 * c, step, p - j, row + 4 * j, size)
        for j in range(0, n, WIDTH):
            transpose(x + (first + j) * step + 4 * c, step, n - j, row + 4 * (text + j), size)


@helper
def write_rows(rows: FourRows, offset: int, values: Any) -> None:
    """Writes a vector to each of four rows."""
    store(rows[0] + offset, values[0])
    store(rows[1] + offset, values[1])
    store(rows[2] + offset, values[2])
    store(rows[3] + offset, values[3])


@helper
def add_weighted(
    weights: FourRows, rows: FourRows, offset: int, target: int, step: int, n: int
) -> None:
    """Adds sixteen columns of four rows to each of n rows, weighted by four weights of each."""
    w0, w1, w2, w3 = floats(weights[0]), floats(weights[1]), floats(weights[2]), floats(weights[3])
    x0, x1 = load(rows[0] + offset), load(rows[1] + offset)
    x2, x3 = load(rows[2] + offset), load(rows[3] + offset)
    for j in range(n):
        a = fma(splat(w1[j]), x1, fma(splat(w0[j]), x0, load(target + j * step)))
        store(target + j * step, fma(splat(w3[j]), x3, fma(splat(w2[j]), x2, a)))
