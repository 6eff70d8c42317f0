"""Compiled loops for a CPU: what torch would begin anew for every adapter, in one call.

A batch of 64 adapters on query and value is 1,536 products on `minilm`, each too small to be worth
its beginning. numba compiles the plain loop over them instead, once for a machine: the compiled
code is kept beside this file, or in the user's cache. The interpreter's lock is let go meanwhile,
so lanes and the server's event loop do not wait for each other.

Everything is float32 numbers at addresses, because the weights of one call lie in as many places
as there are adapters. Plain twins are in `tests/reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .simd import (
    WIDTH,
    add,
    exp,
    floats,
    fma,
    larger,
    largest,
    load,
    mul,
    splat,
    store,
    total,
    turn,
)

Addresses = NDArray[np.int64]
Counts = NDArray[np.int64]
Factors = NDArray[np.float32]

BLOCK = 8
"""Ranks that are expanded at a time: what is shrunk has room for a whole number of blocks."""

ZERO, ONE = np.float32(0.0), np.float32(1.0)

NEVER = np.float32(-1e30)
"""A score that no number comes of."""


@dataclass(frozen=True)
class Thin:
    """One thin layer of each of G adapters, where it lies.

    Attributes:
        weights: Address of each `[out, in]`, row after row.
        biases: Address of each `[out]`; 0 for none.
        ranks: The rank of each: its outputs where tokens shrink, its inputs where they expand.
    """

    weights: Addresses
    biases: Addresses
    ranks: Counts


def shrink(x: Tensor, starts: Counts, thin: Thin, inner: Tensor) -> None:
    """Tokens through thin layers, each run of tokens through its own.

    Semantics: for run g, `inner[t, :r] = weight[g] x[t] + bias[g]`.

    Args:
        x: Tokens `[t, d]`.
        starts: First token of each of the G runs, then t.
        thin: Their layers.
        inner: Zeros `[t, R]` to be written; R is the largest r filled up to whole blocks.
    """
    x = plain(x)  # held while its address is
    _shrink(*_lines(x), starts, thin.weights, thin.biases, thin.ranks, *_lines(inner)[:2])


def expand(inner: Tensor, starts: Counts, thin: Thin, scales: Factors, y: Tensor) -> None:
    """Adds what thin tokens become through each run's own layer, in place.

    Semantics: for run g, `y[t] += scale[g] * (weight[g] inner[t, :r] + bias[g])`.

    Args:
        inner: `[t, R]`, finite.
        starts: First token of each of the G runs, then t.
        thin: Their layers.
        scales: Factor of each run.
        y: `[t, d]`, added to in place.
    """
    layers = (thin.weights, thin.biases, thin.ranks)
    _expand(*_lines(inner)[:2], starts, *layers, scales, *_lines(y))


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
    out = torch.zeros_like(query)
    told = (windows.starts, windows.prefixes, windows.ahead)
    steps = [4 * x.stride(0) for x in (query, key, value)]
    places = [x.data_ptr() for x in (query, key, value, out)]
    width = query.shape[1]
    _attend(*places, *steps, 4 * width, *told, heads, width // heads, scaling)
    return out.to(dtype)


def plain(x: Tensor) -> Tensor:
    """`[t, d]` as the kernels read it, itself as a rule: in float32, line after line."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def _lines(x: Tensor) -> tuple[int, int, int]:
    """Where the lines of `[t, d]` lie: the first one's address, numbers from one to the next, d."""
    return x.data_ptr(), x.stride(0), x.shape[1]


def _compiled(signature: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compiles a loop when this module is imported, or finds it compiled."""

    def compiled(loop: Callable[..., None]) -> Callable[..., None]:
        # Sums may be taken in any order; a number that is none stays one.
        options = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
        try:
            done: Callable[..., None] = numba.njit(signature, cache=True, **options)(loop)
        except RuntimeError:  # no place for it may be written to
            done = numba.njit(signature, **options)(loop)
        return done

    return compiled


# Four or eight lines of a weight are read at once, and two tokens against them: what has been read
# is used several times before it is read again. Past a weight's last line the last one is read once
# more, which is cheaper than asking, and what comes of it is not used.


@_compiled(
    "void(int64, int64, int64, int64[::1], int64[::1], int64[::1], int64[::1], int64, int64)"
)
def _shrink(
    x: int,
    x_step: int,
    width: int,
    starts: Counts,
    weights: Addresses,
    biases: Addresses,
    ranks: Counts,
    inner: int,
    inner_step: int,
) -> None:
    for g in range(len(weights)):
        last = ranks[g] - 1
        w = numba.carray(floats(weights[g]), (ranks[g], width))
        bias = numba.carray(floats(biases[g]), (ranks[g],))
        for t in range(starts[g], starts[g + 1], 2):
            u = min(t + 1, starts[g + 1] - 1)
            a = numba.carray(floats(x + 4 * x_step * t), (width,))
            b = numba.carray(floats(x + 4 * x_step * u), (width,))
            into_a = numba.carray(floats(inner + 4 * inner_step * t), (inner_step,))
            into_b = numba.carray(floats(inner + 4 * inner_step * u), (inner_step,))
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
                into_a[j], into_a[j + 1], into_a[j + 2], into_a[j + 3] = a0, a1, a2, a3
                into_b[j], into_b[j + 1], into_b[j + 2], into_b[j + 3] = b0, b1, b2, b3


@_compiled(
    "void(int64, int64, int64[::1], int64[::1], int64[::1], int64[::1], float32[::1],"
    " int64, int64, int64)"
)
def _expand(
    inner: int,
    inner_step: int,
    starts: Counts,
    weights: Addresses,
    biases: Addresses,
    ranks: Counts,
    scales: Factors,
    y: int,
    y_step: int,
    width: int,
) -> None:
    # A block of ranks, each in a line of its own.
    turned = np.empty((BLOCK, width), np.float32)
    w0, w1, w2, w3 = turned[0], turned[1], turned[2], turned[3]
    w4, w5, w6, w7 = turned[4], turned[5], turned[6], turned[7]
    for g in range(len(weights)):
        w = numba.carray(floats(weights[g]), (width, ranks[g]))
        for j in range(0, ranks[g], BLOCK):
            for i in range(BLOCK):
                if j + i < ranks[g]:
                    for k in range(width):
                        turned[i, k] = w[k, j + i]
                else:
                    turned[i] = ZERO
            for t in range(starts[g], starts[g + 1]):
                into = numba.carray(floats(y + 4 * y_step * t), (width,))
                c = numba.carray(floats(inner + 4 * (inner_step * t + j)), (BLOCK,))
                c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
                c4, c5, c6, c7 = c[4], c[5], c[6], c[7]
                s = scales[g]
                for k in range(width):
                    into[k] += s * (
                        c0 * w0[k]
                        + c1 * w1[k]
                        + c2 * w2[k]
                        + c3 * w3[k]
                        + c4 * w4[k]
                        + c5 * w5[k]
                        + c6 * w6[k]
                        + c7 * w7[k]
                    )
        if biases[g]:
            bias = numba.carray(floats(biases[g]), (width,))
            for t in range(starts[g], starts[g + 1]):
                into = numba.carray(floats(y + 4 * y_step * t), (width,))
                for k in range(width):
                    into[k] += scales[g] * bias[k]


@_compiled(
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
    most = 0
    for s in range(len(ahead)):
        most = max(most, starts[s + 1] - starts[s] + ahead[s])
    room = np.empty((d + 5) * (most + 2 * WIDTH), np.float32)
    turned = room.ctypes.data
    scale = splat(np.float32(scaling))
    for s in range(len(ahead)):
        first, n, p = starts[s], starts[s + 1] - starts[s], ahead[s]
        # Keys lie as columns, the prefix's and the text's each filled up to whole vectors.
        text = -(-p // WIDTH) * WIDTH
        keys = text - (-n // WIDTH) * WIDTH
        step = 4 * keys
        mask = turned + d * step
        w0, w1, w2, w3 = mask + step, mask + 2 * step, mask + 3 * step, mask + 4 * step
        for j in range(keys):
            real = j < p or text <= j < text + n
            floats(mask)[j] = ZERO if real else NEVER
        for head in range(0, heads * d, d):
            at = 4 * head
            for c in range(0, 4 * d, 4 * WIDTH):
                into = turned + c // 4 * step
                for j in range(0, p, WIDTH):
                    source = key + (prefixes[s] + j) * key_step + at + c
                    turn(source, key_step, p - j, into + 4 * j, step)
                for j in range(0, n, WIDTH):
                    source = key + (first + j) * key_step + at + c
                    turn(source, key_step, n - j, into + 4 * (text + j), step)
            for i in range(0, n, 4):
                i0, i1 = first + i, first + min(i + 1, n - 1)
                i2, i3 = first + min(i + 2, n - 1), first + min(i + 3, n - 1)
                q0 = floats(query + i0 * query_step + at)
                q1 = floats(query + i1 * query_step + at)
                q2 = floats(query + i2 * query_step + at)
                q3 = floats(query + i3 * query_step + at)
                t0 = t1 = t2 = t3 = splat(NEVER)
                for j in range(0, 4 * keys, 4 * WIDTH):
                    a0 = a1 = a2 = a3 = load(mask + j)
                    for c in range(d):
                        k = load(turned + c * step + j)
                        a0 = fma(splat(q0[c]), k, a0)
                        a1 = fma(splat(q1[c]), k, a1)
                        a2 = fma(splat(q2[c]), k, a2)
                        a3 = fma(splat(q3[c]), k, a3)
                    t0, t1, t2, t3 = larger(t0, a0), larger(t1, a1), larger(t2, a2), larger(t3, a3)
                    store(w0 + j, a0)
                    store(w1 + j, a1)
                    store(w2 + j, a2)
                    store(w3 + j, a3)
                b0, b1 = splat(-scaling * largest(t0)), splat(-scaling * largest(t1))
                b2, b3 = splat(-scaling * largest(t2)), splat(-scaling * largest(t3))
                z0 = z1 = z2 = z3 = splat(ZERO)
                for j in range(0, 4 * keys, 4 * WIDTH):
                    a0, a1 = exp(fma(load(w0 + j), scale, b0)), exp(fma(load(w1 + j), scale, b1))
                    a2, a3 = exp(fma(load(w2 + j), scale, b2)), exp(fma(load(w3 + j), scale, b3))
                    store(w0 + j, a0)
                    store(w1 + j, a1)
                    store(w2 + j, a2)
                    store(w3 + j, a3)
                    z0, z1, z2, z3 = add(z0, a0), add(z1, a1), add(z2, a2), add(z3, a3)
                z0, z1 = splat(ONE / total(z0)), splat(ONE / total(z1))
                z2, z3 = splat(ONE / total(z2)), splat(ONE / total(z3))
                for c in range(at, at + 4 * d, 4 * WIDTH):
                    a0 = a1 = a2 = a3 = splat(ZERO)
                    for part in range(2):
                        j0, count = (text, n) if part else (0, p)
                        source = value + (first if part else prefixes[s]) * value_step + c
                        p0, p1 = floats(w0 + 4 * j0), floats(w1 + 4 * j0)
                        p2, p3 = floats(w2 + 4 * j0), floats(w3 + 4 * j0)
                        for j in range(count):
                            v = load(source + j * value_step)
                            a0 = fma(splat(p0[j]), v, a0)
                            a1 = fma(splat(p1[j]), v, a1)
                            a2 = fma(splat(p2[j]), v, a2)
                            a3 = fma(splat(p3[j]), v, a3)
                    store(out + i0 * out_step + c, mul(a0, z0))
                    store(out + i1 * out_step + c, mul(a1, z1))
                    store(out + i2 * out_step + c, mul(a2, z2))
                    store(out + i3 * out_step + c, mul(a3, z3))
