"""Low-rank products of many adapters: what torch would begin anew for each, in one call.

A batch of 64 adapters on query and value is 1,536 products on `minilm`, each too small to be worth
its beginning. Here plain loops run over them. The weights of one call lie in as many places as
there are adapters, so loops are told addresses; everything is float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from torch import Tensor

from .compiling import Addresses, Counts, Factors, compiled, lines, plain
from .simd import floats

BLOCK = 8
"""Ranks that are expanded at a time: what is shrunk has room for a whole number of blocks."""

ZERO = np.float32(0.0)


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
    _shrink(*lines(x), starts, thin.weights, thin.biases, thin.ranks, *lines(inner)[:2])


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
    _expand(*lines(inner)[:2], starts, *layers, scales, *lines(y))


# Four or eight lines of a weight are read at once, and two tokens against them: what has been read
# is used several times before it is read again. Past a weight's last line the last one is read once
# more, which is cheaper than asking, and what comes of it is not used.


@compiled("void(int64, int64, int64, int64[::1], int64[::1], int64[::1], int64[::1], int64, int64)")
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


@compiled(
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
