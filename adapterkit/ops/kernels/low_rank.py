"""Low-rank products of many adapters in one call.

A batch of 64 adapters on query and value needs 1,536 products on `minilm`, and torch takes longer
to start each than to compute it. Here plain loops run over all of them: tokens shrink to a few
ranks and expand again. The weights of one call are not in one tensor, so loops take their
addresses. Tokens are float32 or bfloat16; low-rank vectors, weights and all sums are float32. The
gradients of the weights are in `outer_products.py`.
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
from .arguments import as_rows, ones, row_arguments
from .compiling import Addresses, Counts, Factors, as_float32_rows, compiled, helper
from .rows import as_float32_row, four_rows, read, weighted_sums, write
from .simd import add, floats, load

BLOCK = 4
"""Ranks that are computed at a time: low-rank vectors are padded to a multiple of it."""

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@dataclass(frozen=True)
class WeightPointers:
    """One low-rank layer of each of G adapters.

    Attributes:
        addresses: Address of each weight, contiguous.
        ranks: Rank r of each.
        max_rank: The largest rank.
        by_rank: Whether a weight is `[r, d]`, and not `[d, r]`.
        tensors: The tensors at the addresses, referenced here so that they stay in memory.
    """

    addresses: Addresses
    ranks: Counts
    max_rank: int
    by_rank: bool
    tensors: Sequence[Tensor]


def shrink(
    x: Tensor,
    starts: Counts,
    weights: WeightPointers,
    biases: Addresses | None = None,
    scales: Factors | None = None,
) -> Tensor:
    """Low-rank vectors of tokens, each segment of tokens by its own layer.

    Semantics: for segment g, `inner[t, :r] = scale[g] * (weight[g] x[t] + bias[g])`.

    Args:
        x: Tokens `[t, d]`.
        starts: First token of each of the G segments, then t.
        weights: Their layers.
        biases: Address of each `[r]`; 0 for no bias.
        scales: Factor of each segment, 1 if omitted.

    Returns:
        `[t, R]` float32, R the largest r rounded up to whole blocks. Columns beyond a segment's
        rank are finite if x is.
    """
    inner = torch.zeros(len(x), -(-weights.max_rank // BLOCK) * BLOCK)
    x, is_bfloat16 = as_rows(x)
    layers = _layer_arguments(weights, biases, scales)
    _shrink(*row_arguments(x), is_bfloat16, starts, *layers, *row_arguments(inner)[:2])
    return inner


def expand(
    inner: Tensor,
    starts: Counts,
    weights: WeightPointers,
    biases: Addresses | None,
    y: Tensor | None,
    output: Tensor,
    scales: Factors | None = None,
) -> None:
    """Adds the products of low-rank vectors to tokens, each segment by its own layer.

    Semantics: for segment g, `output[t] = y[t] + scale[g] * (weight[g] inner[t, :r] + bias[g])`.

    Args:
        inner: `[t, R]`.
        starts: First token of each of the G segments, then t.
        weights: Their layers.
        biases: Address of each `[d]`; 0 for no bias.
        y: `[t, d]`, may be the output itself; None for zeros.
        output: `[t, d]`, is written.
        scales: Factor of each segment, 1 if omitted.
    """
    target, is_bfloat16 = as_rows(output)
    if y is not None:
        y = target if y is output else y if is_bfloat16 else as_float32_rows(y)
    rest = -target.shape[1] % WIDTH
    if rest:  # the loop writes whole vectors
        target = F.pad(target, (0, rest))
        y = None if y is None else F.pad(y, (0, rest))
    addresses = (*((0, 0) if y is None else row_arguments(y)[:2]), *row_arguments(target)[:2])
    layers = _layer_arguments(weights, biases, scales)
    inputs = row_arguments(inner)[:2]
    _expand(*inputs, starts, *layers, *addresses, output.shape[1], is_bfloat16)
    if target is not output:
        output.copy_(target[:, : output.shape[1]])


@cache
def _no_biases(n: int) -> Addresses:
    return np.zeros(n, np.int64)


def _layer_arguments(
    weights: WeightPointers, biases: Addresses | None, scales: Factors | None
) -> tuple[Any, ...]:
    """Low-rank layers as arguments of a loop."""
    n = len(weights.addresses)
    return (
        weights.addresses,
        _no_biases(n) if biases is None else biases,
        weights.ranks,
        weights.by_rank,
        ones(n) if scales is None else scales,
    )


# The loops read four rows of a weight and two or four tokens at a time, so that everything read is
# used several times. Beyond the last row of a weight or a segment the last one is read again, which
# is cheaper than a branch; the result is not used.


@helper
def _write_by_rank(
    weight: int, rank: int, width: int, by_rank: bool, scale: float, into: Factors
) -> None:
    """Writes a weight times a scale as `[r, d]`, however it is stored."""
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
    is_bfloat16: bool,
    starts: Counts,
    weights: Addresses,
    biases: Addresses,
    ranks: Counts,
    by_rank: bool,
    scales: Factors,
    inner: int,
    inner_step: int,
) -> None:
    n_columns, max_rank = inner_step // 4, 1 if by_rank else max(ranks)
    by_rank_weight = np.empty((max_rank, width), np.float32)
    buffer = np.empty(2 * width, np.float32)
    rows, row_bytes = buffer.ctypes.data, 4 * width
    for g in range(len(weights)):
        last, s = ranks[g] - 1, scales[g]
        address = weights[g]
        if not by_rank:
            _write_by_rank(address, ranks[g], width, False, ONE, by_rank_weight)
            address = by_rank_weight.ctypes.data
        w = numba.carray(floats(address), (ranks[g], width))
        bias = numba.carray(floats(biases[g]), (ranks[g],))
        for t in range(starts[g], starts[g + 1], 2):
            u = min(t + 1, starts[g + 1] - 1)
            first = as_float32_row(is_bfloat16, x + x_step * t, width, rows)
            second = as_float32_row(is_bfloat16, x + x_step * u, width, rows + row_bytes)
            a = numba.carray(floats(first), (width,))
            b = numba.carray(floats(second), (width,))
            into_a = numba.carray(floats(inner + inner_step * t), (n_columns,))
            into_b = numba.carray(floats(inner + inner_step * u), (n_columns,))
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
    # numba frees an array after its last use, and addresses are no uses.
    by_rank_weight[0, 0] = buffer[0] = ZERO


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
    y: int,
    y_step: int,
    output: int,
    output_step: int,
    width: int,
    is_bfloat16: bool,
) -> None:
    padded_width = -(-width // WIDTH) * WIDTH
    scaled = np.zeros((max(ranks), padded_width), np.float32)
    bias = np.zeros(padded_width, np.float32)
    size = 2 if is_bfloat16 else 4  # bytes per number
    for g in range(len(weights)):
        _write_by_rank(weights[g], ranks[g], width, by_rank, scales[g], scaled)
        if biases[g]:
            unscaled = numba.carray(floats(biases[g]), (width,))
            for k in range(width):
                bias[k] = scales[g] * unscaled[k]
        else:
            bias[:] = ZERO
        last = starts[g + 1] - 1
        for t in range(starts[g], starts[g + 1], 4):
            vectors = four_rows(inner, inner_step, t, last)
            y_rows = four_rows(y, y_step, t, last)
            output_rows = four_rows(output, output_step, t, last)
            for k in range(0, padded_width, WIDTH):
                start = load(bias.ctypes.data + 4 * k)
                a = (start, start, start, start)
                if y:
                    a = (
                        add(start, read(y_rows[0] + size * k, is_bfloat16)),
                        add(start, read(y_rows[1] + size * k, is_bfloat16)),
                        add(start, read(y_rows[2] + size * k, is_bfloat16)),
                        add(start, read(y_rows[3] + size * k, is_bfloat16)),
                    )
                columns = scaled.ctypes.data + 4 * k
                a = weighted_sums(vectors, columns, 4 * padded_width, ranks[g], a)
                for u in range(min(4, last - t + 1)):
                    write(output_rows[u] + size * k, a[u], is_bfloat16)
    # numba frees an array after its last use, and addresses are no uses.
    scaled[0, 0] = bias[0] = ZERO
