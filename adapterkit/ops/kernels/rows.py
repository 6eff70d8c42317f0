"""Four rows at a time: what has been read of another row is used for all four.

A row is a number of consecutive float32 numbers; it is passed by its address.
"""

from __future__ import annotations

from typing import Any

from ..bucketing import WIDTH
from .compiling import helper
from .simd import floats, fma, load, load_bfloat16, splat, store, store_bfloat16

FourRows = tuple[int, int, int, int]
"""Addresses of four rows."""


@helper
def four_rows(x: int, step: int, first: int, last: int) -> FourRows:
    """Addresses of four rows from `first` on; the row `last` replaces those beyond it."""
    return (
        x + first * step,
        x + min(first + 1, last) * step,
        x + min(first + 2, last) * step,
        x + min(first + 3, last) * step,
    )


@helper
def advance(rows: FourRows, step: int) -> FourRows:
    """The addresses `step` bytes further."""
    return rows[0] + step, rows[1] + step, rows[2] + step, rows[3] + step


@helper
def weighted_sums(weights: FourRows, rows: int, step: int, n: int, initial: Any) -> Any:
    """Adds sixteen columns of n rows to four vectors, each with its own weights of the rows."""
    a0, a1, a2, a3 = initial
    w0, w1, w2, w3 = floats(weights[0]), floats(weights[1]), floats(weights[2]), floats(weights[3])
    for j in range(n):
        row = load(rows + j * step)
        a0 = fma(splat(w0[j]), row, a0)
        a1 = fma(splat(w1[j]), row, a1)
        a2 = fma(splat(w2[j]), row, a2)
        a3 = fma(splat(w3[j]), row, a3)
    return a0, a1, a2, a3


@helper
def as_float32_row(is_bfloat16: bool, row: int, width: int, buffer: int) -> int:
    """Address of a row in float32: its own, or that of the buffer into which it is converted."""
    if not is_bfloat16:
        return row
    for k in range(0, width, WIDTH):
        store(buffer + 4 * k, load_bfloat16(row + 2 * k))
    return buffer


@helper
def read(address: int, is_bfloat16: bool) -> Any:
    """Sixteen numbers of bfloat16 or float32, as float32."""
    return load_bfloat16(address) if is_bfloat16 else load(address)


@helper
def write(address: int, a: Any, is_bfloat16: bool) -> None:
    """Writes sixteen numbers as bfloat16 or as float32."""
    if is_bfloat16:
        store_bfloat16(address, a)
    else:
        store(address, a)
