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
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

Addresses = NDArray[np.int64]
Counts = NDArray[np.int64]
Factors = NDArray[np.float32]

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


def _lines(x: Tensor) -> tuple[int, int, int]:
    """Where the lines of `[t, d]` lie: the first one's address, numbers from one to the next, d."""
    return x.data_ptr(), x.stride(0), x.shape[1]


@intrinsic  # type: ignore[untyped-decorator]
def _floats(context: Any, address: Any) -> Any:
    """An address as a pointer to float32 numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(address), generate


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
        w = numba.carray(_floats(weights[g]), (ranks[g], width))
        bias = numba.carray(_floats(biases[g]), (ranks[g],))
        for t in range(starts[g], starts[g + 1], 2):
            u = min(t + 1, starts[g + 1] - 1)
            a = numba.carray(_floats(x + 4 * x_step * t), (width,))
            b = numba.carray(_floats(x + 4 * x_step * u), (width,))
            into_a = numba.carray(_floats(inner + 4 * inner_step * t), (inner_step,))
            into_b = numba.carray(_floats(inner + 4 * inner_step * u), (inner_step,))
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
        w = numba.carray(_floats(weights[g]), (width, ranks[g]))
        for j in range(0, ranks[g], BLOCK):
            for i in range(BLOCK):
                if j + i < ranks[g]:
                    for k in range(width):
                        turned[i, k] = w[k, j + i]
                else:
                    turned[i] = ZERO
            for t in range(starts[g], starts[g + 1]):
                into = numba.carray(_floats(y + 4 * y_step * t), (width,))
                c = numba.carray(_floats(inner + 4 * (inner_step * t + j)), (BLOCK,))
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
            bias = numba.carray(_floats(biases[g]), (width,))
            for t in range(starts[g], starts[g + 1]):
                into = numba.carray(_floats(y + 4 * y_step * t), (width,))
                for k in range(width):
                    into[k] += scales[g] * bias[k]
