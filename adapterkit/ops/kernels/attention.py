"""Attention within each sequence of a packed batch, there and back, without padding.

torch's attention wants rows of one length, so a packed batch goes through it in padded groups, and
a text of 14 tokens costs more to gather than to attend. Here a loop goes from sequence to sequence
and head to head; what it needs of one fits into the processor's nearest cache. Everything is
float32. The plain twin is in `tests/helpers/reference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import Counts, Factors, compiled, helper, plain
from .lines import Four, four, mixed, past
from .simd import add, exp, floats, fma, larger, largest, load, mul, splat, store, total, turn

ZERO, ONE = np.float32(0.0), np.float32(1.0)

NEVER = np.float32(-1e30)
"""A score that no number comes of."""


@dataclass(frozen=True)
class Windows:
    """Which keys each of N sequences attends to: its prefix and its own tokens.

    Attributes:
        starts: First token of each sequence, then T.
        prefixes: First prefix key of each, counted like tokens.
        ahead: Its number of prefix keys.
    """

    starts: Counts
    prefixes: Counts
    ahead: Counts


def attend(
    query: Tensor, key: Tensor, value: Tensor, windows: Windows, heads: int, scaling: float
) -> Tensor:
    """Scaled dot-product attention within each sequence, without padding.

    Args:
        query: `[R, heads * d]`.
        key, value: `[R + P, heads * d]`, the prefix keys after the text's.
        windows: Who attends to what.
        heads: Number of heads.
        scaling: Factor on the scores.

    Returns:
        `[R, heads * d]` in the dtype of the query, zero past the last sequence; d is a multiple
        of 16.
    """
    dtype = query.dtype
    query, key, value = plain(query), plain(key), plain(value)
    out = torch.zeros_like(query, memory_format=torch.contiguous_format)
    told = (windows.starts, windows.prefixes, windows.ahead)
    steps = [4 * x.stride(0) for x in (query, key, value)]
    places = [x.data_ptr() for x in (query, key, value, out)]
    width = query.shape[1]
    _attend(*places, *steps, 4 * width, *told, heads, width // heads, scaling)
    return out.to(dtype)


def attend_back(
    gradient: Tensor,
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: Windows,
    heads: int,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The way back through `attend`; the weights are computed anew, so that none need be kept.

    Semantics, for each head of a sequence with weights P and what it gave, O: `dV = P' dO`,
    `dS = P * (dO V' - rowsum(dO * O))`, `dQ = scaling dS K` and `dK = scaling dS' Q` (Dao et al.
    2022).

    Args:
        gradient: Towards what `attend` gave, `[R, heads * d]`.
        out: What it gave.
        query, key, value, windows, heads, scaling: What it was given.

    Returns:
        The gradients towards query, key and value, in their dtypes.
    """
    dtypes = query.dtype, key.dtype, value.dtype
    given = [plain(x) for x in (query, key, value, out, gradient)]
    found = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in given[:3]]
    places = [x.data_ptr() for x in (*given, *found)]
    steps = [4 * x.stride(0) for x in given]
    width = query.shape[1]
    told = (windows.starts, windows.prefixes, windows.ahead)
    _attend_back(*places, *steps, 4 * width, *told, heads, width // heads, scaling)
    to_query, to_key, to_value = (x.to(kind) for x, kind in zip(found, dtypes, strict=True))
    return to_query, to_key, to_value


# Attention takes four queries at a time against sixteen keys. What is mixed of the values' lines is
# what queries read; of the keys' columns, with a query's numbers for weights, it is their scores.
# Keys lie as columns, so that a vector holds one number of each of sixteen; the prefix's and the
# text's are each filled up to whole vectors, and a mask keeps what fills them from being attended
# to. Where fewer than four queries are left the last one stands in for the others.


@helper
def _columns(n: int, p: int) -> tuple[int, int]:
    """The column at which n text keys begin after p of a prefix, and how many columns there are."""
    text = -(-p // WIDTH) * WIDTH
    return text, text - (-n // WIDTH) * WIDTH


@helper
def _masked(mask: int, n: int, p: int) -> None:
    """Writes what is added to the scores of every column."""
    text, columns = _columns(n, p)
    for j in range(columns):
        floats(mask)[j] = ZERO if j < p or text <= j < text + n else NEVER


@helper
def _turned(x: int, step: int, d: int, first: int, n: int, prefix: int, p: int, into: int) -> None:
    """Writes d numbers of p lines from `prefix` on, then of n from `first` on, as columns."""
    text, columns = _columns(n, p)
    for c in range(0, d, WIDTH):
        at = into + 4 * c * columns
        for j in range(0, p, WIDTH):
            turn(x + (prefix + j) * step + 4 * c, step, p - j, at + 4 * j, 4 * columns)
        for j in range(0, n, WIDTH):
            turn(x + (first + j) * step + 4 * c, step, n - j, at + 4 * (text + j), 4 * columns)


@helper
def _write(lines: Four, at: int, values: Any) -> None:
    """Writes a vector to each of four lines."""
    store(lines[0] + at, values[0])
    store(lines[1] + at, values[1])
    store(lines[2] + at, values[2])
    store(lines[3] + at, values[3])


@helper
def _exponentials(
    lines: Four, queries: Four, turned: int, mask: int, step: int, d: int, scaling: float
) -> Any:
    """Writes `exp(scaling (score - largest score))` of four queries and every column.

    Returns:
        Their four sums.
    """
    t0 = t1 = t2 = t3 = splat(NEVER)
    for j in range(0, step, 4 * WIDTH):
        added = load(mask + j)
        found = mixed(queries, turned + j, step, d, (added, added, added, added))
        t0, t1 = larger(t0, found[0]), larger(t1, found[1])
        t2, t3 = larger(t2, found[2]), larger(t3, found[3])
        _write(lines, j, found)
    b0, b1 = splat(-scaling * largest(t0)), splat(-scaling * largest(t1))
    b2, b3 = splat(-scaling * largest(t2)), splat(-scaling * largest(t3))
    scale = splat(scaling)
    z0 = z1 = z2 = z3 = splat(ZERO)
    for j in range(0, step, 4 * WIDTH):
        a0 = exp(fma(load(lines[0] + j), scale, b0))
        a1 = exp(fma(load(lines[1] + j), scale, b1))
        a2 = exp(fma(load(lines[2] + j), scale, b2))
        a3 = exp(fma(load(lines[3] + j), scale, b3))
        z0, z1, z2, z3 = add(z0, a0), add(z1, a1), add(z2, a2), add(z3, a3)
        _write(lines, j, (a0, a1, a2, a3))
    return total(z0), total(z1), total(z2), total(z3)


@helper
def _spread(weights: Four, lines: Four, at: int, into: int, step: int, n: int) -> None:
    """Adds sixteen numbers of four lines to each of n lines, by four weights of each."""
    w0, w1, w2, w3 = floats(weights[0]), floats(weights[1]), floats(weights[2]), floats(weights[3])
    x0, x1 = load(lines[0] + at), load(lines[1] + at)
    x2, x3 = load(lines[2] + at), load(lines[3] + at)
    for j in range(n):
        known = fma(splat(w1[j]), x1, fma(splat(w0[j]), x0, load(into + j * step)))
        store(into + j * step, fma(splat(w3[j]), x3, fma(splat(w2[j]), x2, known)))


@helper
def _room(starts: Counts, ahead: Counts, lines: int) -> Factors:
    """Room for so many lines of any sequence's columns."""
    most = 0
    for s in range(len(ahead)):
        most = max(most, _columns(starts[s + 1] - starts[s], ahead[s])[1])
    return np.empty(lines * most, np.float32)


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64[::1], int64[::1],"
    " int64[::1], int64, int64, float32)"
)
def _attend(
    query: int,
    key: int,
    value: int,
    out: int,
    query_step: int,
    key_step: int,
    value_step: int,
    out_step: int,
    starts: Counts,
    prefixes: Counts,
    ahead: Counts,
    heads: int,
    d: int,
    scaling: float,
) -> None:
    room = _room(starts, ahead, d + 5)
    turned = room.ctypes.data
    nothing = splat(ZERO)
    for s in range(len(ahead)):
        first, n, p = starts[s], starts[s + 1] - starts[s], ahead[s]
        text, columns = _columns(n, p)
        step = 4 * columns
        mask = turned + d * step
        weights = four(mask + step, step, 0, 3)
        own = past(weights, 4 * text)
        _masked(mask, n, p)
        for at in range(0, 4 * heads * d, 4 * d):
            _turned(key + at, key_step, d, first, n, prefixes[s], p, turned)
            ahead_of, here = value + at + prefixes[s] * value_step, value + at + first * value_step
            for i in range(first, first + n, 4):
                queries = four(query + at, query_step, i, first + n - 1)
                into = four(out + at, out_step, i, first + n - 1)
                z = _exponentials(weights, queries, turned, mask, step, d, scaling)
                z0, z1, z2, z3 = (
                    splat(ONE / z[0]),
                    splat(ONE / z[1]),
                    splat(ONE / z[2]),
                    splat(ONE / z[3]),
                )
                for c in range(0, 4 * d, 4 * WIDTH):
                    a = (nothing, nothing, nothing, nothing)
                    a = mixed(weights, ahead_of + c, value_step, p, a)
                    a = mixed(own, here + c, value_step, n, a)
                    mean = mul(a[0], z0), mul(a[1], z1), mul(a[2], z2), mul(a[3], z3)
                    _write(into, c, mean)
    room[0] = ZERO  # numba lets go of what is not named any more, and only addresses of it were


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64,"
    " int64, int64, int64[::1], int64[::1], int64[::1], int64, int64, float32)"
)
def _attend_back(
    query: int,
    key: int,
    value: int,
    out: int,
    gradient: int,
    to_query: int,
    to_key: int,
    to_value: int,
    query_step: int,
    key_step: int,
    value_step: int,
    out_step: int,
    gradient_step: int,
    to_step: int,
    starts: Counts,
    prefixes: Counts,
    ahead: Counts,
    heads: int,
    d: int,
    scaling: float,
) -> None:
    room = _room(starts, ahead, 2 * d + 9)
    turned = room.ctypes.data
    nothing, scale = splat(ZERO), splat(scaling)
    for s in range(len(ahead)):
        first, n, p, prefix = starts[s], starts[s + 1] - starts[s], ahead[s], prefixes[s]
        text, columns = _columns(n, p)
        step = 4 * columns
        values = turned + d * step
        mask = values + d * step
        weights = four(mask + step, step, 0, 3)
        changes = past(weights, 4 * step)  # gradients of the scores
        own, own_changes = past(weights, 4 * text), past(changes, 4 * text)
        _masked(mask, n, p)
        for at in range(0, 4 * heads * d, 4 * d):
            _turned(key + at, key_step, d, first, n, prefix, p, turned)
            _turned(value + at, value_step, d, first, n, prefix, p, values)
            for i in range(first, first + n, 4):
                last = first + n - 1
                queries = four(query + at, query_step, i, last)
                given = four(gradient + at, gradient_step, i, last)
                gave = four(out + at, out_step, i, last)
                z = _exponentials(weights, queries, turned, mask, step, d, scaling)
                for u in range(4):
                    # A query that stands in for one past the last has no weights.
                    shared = splat(ONE / z[u] if i + u <= last else ZERO)
                    mean = nothing
                    for c in range(0, 4 * d, 4 * WIDTH):
                        mean = fma(load(given[u] + c), load(gave[u] + c), mean)
                    below = splat(-total(mean))
                    for j in range(0, step, 4 * WIDTH):
                        weight = mul(load(weights[u] + j), shared)
                        store(weights[u] + j, weight)
                        store(changes[u] + j, below)
                for j in range(0, step, 4 * WIDTH):
                    a = mixed(given, values + j, step, d, (nothing, nothing, nothing, nothing))
                    for u in range(4):
                        weight = mul(load(weights[u] + j), scale)
                        store(changes[u] + j, mul(weight, add(a[u], load(changes[u] + j))))
                for c in range(at, at + 4 * d, 4 * WIDTH):
                    a = (nothing, nothing, nothing, nothing)
                    a = mixed(changes, key + prefix * key_step + c, key_step, p, a)
                    a = mixed(own_changes, key + first * key_step + c, key_step, n, a)
                    for u in range(min(4, last - i + 1)):
                        store(to_query + (i + u) * to_step + c, a[u])
                    above, here = prefix * to_step + c, first * to_step + c
                    _spread(changes, queries, c - at, to_key + above, to_step, p)
                    _spread(own_changes, queries, c - at, to_key + here, to_step, n)
                    _spread(weights, given, c - at, to_value + above, to_step, p)
                    _spread(own, given, c - at, to_value + here, to_step, n)
    room[0] = ZERO  # numba lets go of what is not named any more, and only addresses of it were
