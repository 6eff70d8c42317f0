"""Four lines at a time: what has been read of a fifth is used for all of them.

A line is so many numbers from an address on; they are told by their addresses.
"""

from __future__ import annotations

from typing import Any

from .compiling import helper
from .simd import floats, fma, load, load_half, splat, store, store_half

Four = tuple[int, int, int, int]
"""Addresses of four lines."""


@helper
def four(x: int, step: int, first: int, last: int) -> Four:
    """Where four lines lie, none past the last: that one stands in for those that are not."""
    return (
        x + first * step,
        x + min(first + 1, last) * step,
        x + min(first + 2, last) * step,
        x + min(first + 3, last) * step,
    )


@helper
def past(lines: Four, step: int) -> Four:
    """Four lines further on."""
    return lines[0] + step, lines[1] + step, lines[2] + step, lines[3] + step


@helper
def mixed(weights: Four, lines: int, step: int, n: int, begun: Any) -> Any:
    """Sixteen numbers of each of n lines times four weights of the line, added to four vectors."""
    a0, a1, a2, a3 = begun
    w0, w1, w2, w3 = floats(weights[0]), floats(weights[1]), floats(weights[2]), floats(weights[3])
    for j in range(n):
        line = load(lines + j * step)
        a0 = fma(splat(w0[j]), line, a0)
        a1 = fma(splat(w1[j]), line, a1)
        a2 = fma(splat(w2[j]), line, a2)
        a3 = fma(splat(w3[j]), line, a3)
    return a0, a1, a2, a3


@helper
def read(address: int, half: bool) -> Any:
    """Sixteen numbers, bfloat16 or float32."""
    return load_half(address) if half else load(address)


@helper
def write(address: int, a: Any, half: bool) -> None:
    """Writes sixteen numbers as bfloat16 or as float32."""
    if half:
        store_half(address, a)
    else:
        store(address, a)
