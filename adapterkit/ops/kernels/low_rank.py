"""Low-rank products of many adapters: what torch would begin anew for each, in one call.

A batch of 64 adapters on query and value is 1,536 products on `minilm`, each too small to be worth
its beginning. Here plain loops run over them: tokens shrink to a few ranks and expand again, and on
the way back each weight gathers the outer products of what came in and what went out. The weights
of one call lie in as many places as there are adapters, so loops are told addresses. Wide lines are
float32 or bfloat16, all else and every sum float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import Addresses, Counts, Factors, compiled, helper, plain
from .lines import four, mixed, read, write
from .simd import add, floats, load, load_half, store

BLOCK = 4
"""Ranks that are shrunk to at a time: thin lines have room for a whole number of blocks."""

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@dataclass(frozen=True)
class WeightPointers:
    """One thin layer of each of G adapters, where it lies.

    Attributes:
        weights: Address of each, line after line.
        ranks: The rank r of each.
        most: The largest.
        by_rank: Whether a weight is `[r, d]`, a line for each rank, and not `[d, r]`.
        tensors: What the addresses are of, held while they are.
    """

    weights: Addresses
    ranks: Counts
    most: int
    by_rank: bool
    tensors: Sequence[Tensor]


def shrink(
    x: Tensor,
    starts: Counts,
    thin: WeightPointers,
    biases: Addresses | None = None,
    scales: Factors | None = None,
) -> Tensor:
    """Tokens through thin layers, each run of tokens through its own.

    Semantics: for run g, `inner[t, :r] = scale[g] * (weight[g] x[t] + bias[g])`.

    Args:
        x: Tokens `[t, d]`.
        starts: First token of each of the G runs, then t.
        thin: Their layers.
        biases: Address of each `[r]`; 0 for none.
        scales: Factor of each run, 1 where left out.

    Returns:
        `[t, R]` float32, R the largest r filled up to whole blocks; finite past a run's ranks where
        x is.
    """
    inner = torch.zeros(len(x), -(-thin.most // BLOCK) * BLOCK)
    x, half = _readable(x)
    _shrink(*_lines(x), half, starts, *_told(thin, biases, scales), *_lines(inner)[:2])
    return inner


def expand(
    inner: Tensor,
    starts: Counts,
    thin: WeightPointers,
    biases: Addresses | None,
    onto: Tensor | None,
    into: Tensor,
    scales: Factors | None = None,
) -> None:
    """What thin tokens become through each run's own layer, added to something.

    Semantics: for run g, `into[t] = onto[t] + scale[g] * (weight[g] inner[t, :r] + bias[g])`.

    Args:
        inner: `[t, R]`.
        starts: First token of each of the G runs, then t.
        thin: Their layers.
        biases: Address of each `[d]`; 0 for none.
        onto: `[t, d]`, may be into itself; zero where None.
        into: `[t, d]`, to be written.
        scales: Factor of each run, 1 where left out.
    """
    written, half = _readable(into)
    if onto is not None:
        onto = written if onto is into else onto if half else plain(onto)
    rest = -written.shape[1] % WIDTH
    if rest:  # whole vectors are written
        written = F.pad(written, (0, rest))
        onto = None if onto is None else F.pad(onto, (0, rest))
    places = (*((0, 0) if onto is None else _lines(onto)[:2]), *_lines(written)[:2])
    told = _told(thin, biases, scales)
    _expand(*_lines(inner)[:2], starts, *told, *places, into.shape[1], half)
    if written is not into:
        into.copy_(written[:, : into.shape[1]])


def outer(inner: Tensor, x: Tensor, starts: Counts, scales: Factors | None = None) -> Tensor:
    """Outer products of thin and wide tokens, summed over each run.

    Semantics: for run g, `sums[g] = scale[g] * inner[run g]' x[run g]`.

    Args:
        inner: `[t, R]`, R whole blocks.
        x: `[t, d]`.
        starts: First token of each of the G runs, then t.
        scales: Factor of each run, 1 where left out.

    Returns:
        `[G, R, d]`, float32.
    """
    scales = _ones(len(starts) - 1) if scales is None else scales
    sums = torch.zeros(len(scales), inner.shape[1], x.shape[1])
    x, half = _readable(x)
    _outer(*_lines(inner), *_lines(x), half, starts, scales, sums.data_ptr())
    return sums


@cache
def _ones(n: int) -> Factors:
    return np.ones(n, np.float32)


@cache
def _none(n: int) -> Addresses:
    return np.zeros(n, np.int64)


def _told(
    thin: WeightPointers, biases: Addresses | None, scales: Factors | None
) -> tuple[Any, ...]:
    """Thin layers as loops are told of them."""
    n = len(thin.weights)
    return (
        thin.weights,
        _none(n) if biases is None else biases,
        thin.ranks,
        thin.by_rank,
        _ones(n) if scales is None else scales,
    )


def _readable(x: Tensor) -> tuple[Tensor, bool]:
    """Wide lines as loops read them, themselves as a rule, and whether they are bfloat16."""
    if x.dtype == torch.bfloat16 and x.stride(-1) == 1 and x.shape[1] % WIDTH == 0:
        return x, True
    return plain(x), False


def _lines(x: Tensor) -> tuple[int, int, int]:
    """Where lines lie: the first one's address, bytes from one to the next, their numbers."""
    return x.data_ptr(), x.stride(0) * x.element_size(), x.shape[1]


# Four or eight lines of a weight are read at once, and two or four tokens against them: what has
# been read is used several times before it is read again. Past a weight's or a run's last line the
# last one is read once more, which is cheaper than asking, and what comes of it is not used.


@helper
def _widened(half: bool, line: int, width: int, into: int) -> int:
    """Where a line can be read as float32: there, or where it is written to for that."""
    if not half:
        return line
    for k in range(0, width, WIDTH):
        store(into + 4 * k, load_half(line + 2 * k))
    return into


@helper
def _ranked(weight: int, rank: int, width: int, by_rank: bool, scale: float, into: Factors) -> None:
    """Writes a scaled line for each rank of a weight."""
    flat = numba.carray(floats(weight), (rank * width,))
    for j in range(rank):
        for k in range(width):
            into[j, k] = scale * flat[j * width + k if by_rank else k * rank + j]


@compiled(
    "void(int64, int64, int64, boolean, int64[::1], int64[::1], int64[::1], int64[::1], boolean,"
    " float32[::1], int64, int64)"
)
def _shrink(
    x: int,
    x_step: int,
    width: int,
    half: bool,
    starts: Counts,
    weights: Addresses,
    biases: Addresses,
    ranks: Counts,
    by_rank: bool,
    scales: Factors,
    inner: int,
    inner_step: int,
) -> None:
    numbers, most = inner_step // 4, 1 if by_rank else max(ranks)
    turned = np.empty((most, width), np.float32)
    pair = np.empty(2 * width, np.float32)
    for g in range(len(weights)):
        last, s = ranks[g] - 1, scales[g]
        where = weights[g]
        if not by_rank:
            _ranked(where, ranks[g], width, False, ONE, turned)
            where = turned.ctypes.data
        w = numba.carray(floats(where), (ranks[g], width))
        bias = numba.carray(floats(biases[g]), (ranks[g],))
        for t in range(starts[g], starts[g + 1], 2):
            u = min(t + 1, starts[g + 1] - 1)
            first = _widened(half, x + x_step * t, width, pair.ctypes.data)
            second = _widened(half, x + x_step * u, width, pair.ctypes.data + 4 * width)
            a = numba.carray(floats(first), (width,))
            b = numba.carray(floats(second), (width,))
            into_a = numba.carray(floats(inner + inner_step * t), (numbers,))
            into_b = numba.carray(floats(inner + inner_step * u), (numbers,))
            for j in range(0, ranks[g], 4):
                w0, w1 = w[j], w[min(j + 1, last)]
                w2, w3 = w[min(j + 2, last)], w[min(j + 3, last)]
                a0 = a1 = a2 = a3 = ZERO
                if biases[g]:
                    a0, a1 = bias[j], bias[min(j + 1, last)]
                    a2, a3 = bias[min(j + 2, last)], bias[min(j + 3, last)]
                b0, b1, b2, b3 = a0, a1, a2, a3
                for k in range(width):
                    p, q = a[k], b[k]
                    a0 += p * w0[k]
                    a1 += p * w1[k]
                    a2 += p * w2[k]
                    a3 += p * w3[k]
                    b0 += q * w0[k]
                    b1 += q * w1[k]
                    b2 += q * w2[k]
                    b3 += q * w3[k]
                into_a[j], into_a[j + 1], into_a[j + 2], into_a[j + 3] = (
                    s * a0,
                    s * a1,
                    s * a2,
                    s * a3,
                )
                into_b[j], into_b[j + 1], into_b[j + 2], into_b[j + 3] = (
                    s * b0,
                    s * b1,
                    s * b2,
                    s * b3,
                )
    # numba lets go of what is not named any more, and only addresses of these were.
    turned[0, 0] = pair[0] = ZERO


@compiled(
    "void(int64, int64, int64[::1], int64[::1], int64[::1], int64[::1], boolean, float32[::1],"
    " int64, int64, int64, int64, int64, boolean)"
)
def _expand(
    inner: int,
    inner_step: int,
    starts: Counts,
    weights: Addresses,
    biases: Addresses,
    ranks: Counts,
    by_rank: bool,
    scales: Factors,
    onto: int,
    onto_step: int,
    into: int,
    into_step: int,
    width: int,
    half: bool,
) -> None:
    whole = -(-width // WIDTH) * WIDTH
    ranked = np.zeros((max(ranks), whole), np.float32)
    bias = np.zeros(whole, np.float32)
    size = 2 if half else 4  # bytes of a number
    for g in range(len(weights)):
        _ranked(weights[g], ranks[g], width, by_rank, scales[g], ranked)
        if biases[g]:
            given = numba.carray(floats(biases[g]), (width,))
            for k in range(width):
                bias[k] = scales[g] * given[k]
        else:
            bias[:] = ZERO
        last = starts[g + 1] - 1
        for t in range(starts[g], starts[g + 1], 4):
            thin = four(inner, inner_step, t, last)
            known = four(onto, onto_step, t, last)
            there = four(into, into_step, t, last)
            for k in range(0, whole, WIDTH):
                begun = load(bias.ctypes.data + 4 * k)
                a = (begun, begun, begun, begun)
                if onto:
                    a = (
                        add(begun, read(known[0] + size * k, half)),
                        add(begun, read(known[1] + size * k, half)),
                        add(begun, read(known[2] + size * k, half)),
                        add(begun, read(known[3] + size * k, half)),
                    )
                a = mixed(thin, ranked.ctypes.data + 4 * k, 4 * whole, ranks[g], a)
                for u in range(min(4, last - t + 1)):
                    write(there[u] + size * k, a[u], half)
    # numba lets go of what is not named any more, and only addresses of these were.
    ranked[0, 0] = bias[0] = ZERO


@compiled(
    "void(int64, int64, int64, int64, int64, int64, boolean, int64[::1], float32[::1], int64)"
)
def _outer(
    inner: int,
    inner_step: int,
    ranks: int,
    x: int,
    x_step: int,
    width: int,
    half: bool,
    starts: Counts,
    scales: Factors,
    sums: int,
) -> None:
    four = np.empty(4 * width, np.float32)
    at, line = four.ctypes.data, 4 * width
    for g in range(len(scales)):
        into = numba.carray(floats(sums + g * ranks * line), (ranks, width))
        s, last = scales[g], starts[g + 1] - 1
        for t in range(starts[g], starts[g + 1], 4):
            # A token that stands in for one past the last weighs nothing.
            t1, t2, t3 = min(t + 1, last), min(t + 2, last), min(t + 3, last)
            s1 = s if t + 1 <= last else ZERO
            s2 = s if t + 2 <= last else ZERO
            s3 = s if t + 3 <= last else ZERO
            x0 = numba.carray(floats(_widened(half, x + x_step * t, width, at)), (width,))
            x1 = numba.carray(floats(_widened(half, x + x_step * t1, width, at + line)), (width,))
            x2 = numba.carray(
                floats(_widened(half, x + x_step * t2, width, at + 2 * line)), (width,)
            )
            x3 = numba.carray(
                floats(_widened(half, x + x_step * t3, width, at + 3 * line)), (width,)
            )
            c0 = numba.carray(floats(inner + inner_step * t), (ranks,))
            c1 = numba.carray(floats(inner + inner_step * t1), (ranks,))
            c2 = numba.carray(floats(inner + inner_step * t2), (ranks,))
            c3 = numba.carray(floats(inner + inner_step * t3), (ranks,))
            for j in range(0, ranks, 2):
                above, below = into[j], into[j + 1]
                a0, a1, a2, a3 = s * c0[j], s1 * c1[j], s2 * c2[j], s3 * c3[j]
                b0, b1 = s * c0[j + 1], s1 * c1[j + 1]
                b2, b3 = s2 * c2[j + 1], s3 * c3[j + 1]
                for k in range(width):
                    p0, p1, p2, p3 = x0[k], x1[k], x2[k], x3[k]
                    above[k] += a0 * p0 + a1 * p1 + a2 * p2 + a3 * p3
                    below[k] += b0 * p0 + b1 * p1 + b2 * p2 + b3 * p3
    four[0] = ZERO  # as above
