"""Attention within each sequence of a packed batch, forward and backward, without padding.

torch's attention needs rows of one length, so it computes a packed batch in padded groups, and to
gather a text of 14 tokens takes longer than its attention. Here a loop goes over sequences and
heads, and the data of one head fits into the processor's first cache. Everything is float32. The
reference is in `tests/helpers/reference.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from ..relative_bias import NO_BIAS, RelativeBias
from .compiling import Counts, Factors, as_float32_rows, compiled, helper
from .key_columns import (
    MASKED,
    ONE,
    ZERO,
    KeySpans,
    add_weighted,
    columns_of,
    transpose_rows,
    write_mask,
    write_rows,
)
from .rows import FourRows, advance, four_rows, weighted_sums
from .simd import add, exp, fma, load, maximum, mul, reduce_max, reduce_sum, splat, store


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: KeySpans,
    heads: int,
    scaling: float,
    bias: RelativeBias | None = None,
) -> Tensor:
    """Scaled dot-product attention within each sequence, without padding.

    Args:
        query: `[R, heads * d]`.
        key, value: `[R + P, heads * d]`, prefix keys after the batch's own.
        spans: The keys of each sequence.
        heads: Number of heads.
        scaling: Factor on the scores.
        bias: What is added to scores by distance, if anything is.

    Returns:
        `[R, heads * d]` in the dtype of the query, zero after the last sequence. d must be a
        multiple of 16.
    """
    dtype = query.dtype
    query, key, value = (as_float32_rows(x) for x in (query, key, value))
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    output[int(spans.starts[-1]) :] = 0.0
    steps = [4 * x.stride(0) for x in (query, key, value)]
    addresses = [x.data_ptr() for x in (query, key, value, output)]
    width = query.shape[1]
    table = NO_BIAS if bias is None else bias.table(scaling)
    sizes = heads, width // heads
    _attend(*addresses, *steps, 4 * width, *spans.arrays, *sizes, scaling, *table.span)
    return output.to(dtype)


def attend_backward(
    gradient: Tensor,
    output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: KeySpans,
    heads: int,
    scaling: float,
    bias: RelativeBias | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `attend`; attention weights are computed again, so that none are stored.

    Semantics, for each head of a sequence with weights P and output O: `dV = P' dO`,
    `dS = P * (dO V' - rowsum(dO * O))`, `dQ = scaling dS K` and `dK = scaling dS' Q` (Dao et al.
    2022).

    Args:
        gradient: Towards the output of `attend`, `[R, heads * d]`.
        output: That output.
        query, key, value, spans, heads, scaling, bias: The arguments of `attend`.

    Returns:
        The gradients towards query, key and value, in their dtypes.
    """
    dtypes = query.dtype, key.dtype, value.dtype
    inputs = [as_float32_rows(x) for x in (query, key, value, output, gradient)]
    results = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in inputs[:3]]
    addresses = [x.data_ptr() for x in (*inputs, *results)]
    steps = [4 * x.stride(0) for x in inputs]
    width = query.shape[1]
    table = NO_BIAS if bias is None else bias.table(scaling)
    sizes = heads, width // heads
    _attend_backward(*addresses, *steps, 4 * width, *spans.arrays, *sizes, scaling, *table.span)
    to_query, to_key, to_value = (x.to(kind) for x, kind in zip(results, dtypes, strict=True))
    return to_query, to_key, to_value


@helper
def _bias_rows(bias: int, i: int, n: int, text: int) -> FourRows:
    """Rows with what is added to the scores of four queries from i on, as long as the scores are.

    Only the columns of the text have a number. The row of a query is that of the query before it,
    one number further to the left.
    """
    rows: FourRows = four_rows(bias - 4 * text, -4, i, n - 1)
    return rows


@helper
def _exponentials(
    rows: FourRows,
    queries: FourRows,
    keys: int,
    mask: int,
    step: int,
    d: int,
    scaling: float,
    biases: FourRows,
    biased: int,
) -> Any:
    """Writes `exp(scaling (score - largest score))` of four queries and every column.

    Args:
        biases: Rows that are added to the scores from the byte `biased` on.

    Returns:
        The sum of each of the four rows.
    """
    t0 = t1 = t2 = t3 = splat(MASKED)
    for j in range(0, step, 4 * WIDTH):
        m = load(mask + j)
        initial = (m, m, m, m)
        if j >= biased:
            initial = (
                add(m, load(biases[0] + j)),
                add(m, load(biases[1] + j)),
                add(m, load(biases[2] + j)),
                add(m, load(biases[3] + j)),
            )
        scores = weighted_sums(queries, keys + j, step, d, initial)
        t0, t1 = maximum(t0, scores[0]), maximum(t1, scores[1])
        t2, t3 = maximum(t2, scores[2]), maximum(t3, scores[3])
        write_rows(rows, j, scores)
    b0, b1 = splat(-scaling * reduce_max(t0)), splat(-scaling * reduce_max(t1))
    b2, b3 = splat(-scaling * reduce_max(t2)), splat(-scaling * reduce_max(t3))
    scale = splat(scaling)
    z0 = z1 = z2 = z3 = splat(ZERO)
    for j in range(0, step, 4 * WIDTH):
        a0 = exp(fma(load(rows[0] + j), scale, b0))
        a1 = exp(fma(load(rows[1] + j), scale, b1))
        a2 = exp(fma(load(rows[2] + j), scale, b2))
        a3 = exp(fma(load(rows[3] + j), scale, b3))
        z0, z1, z2, z3 = add(z0, a0), add(z1, a1), add(z2, a2), add(z3, a3)
        write_rows(rows, j, (a0, a1, a2, a3))
    return reduce_sum(z0), reduce_sum(z1), reduce_sum(z2), reduce_sum(z3)


@helper
def _scratch(starts: Counts, n_prefix: Counts, rows: int) -> Factors:
    """Memory for a number of rows, each as long as the columns of the longest sequence."""
    columns = 0
    for s in range(len(n_prefix)):
        columns = max(columns, columns_of(starts[s + 1] - starts[s], n_prefix[s])[1])
    return np.empty(rows * columns, np.float32)


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64[::1], int64[::1],"
    " int64[::1], int64, int64, float32, int64, int64)"
)
def _attend(
    query: int,
    key: int,
    value: int,
    output: int,
    query_step: int,
    key_step: int,
    value_step: int,
    output_step: int,
    starts: Counts,
    prefixes: Counts,
    n_prefix: Counts,
    heads: int,
    d: int,
    scaling: float,
    bias: int,
    bias_step: int,
) -> None:
    scratch = _scratch(starts, n_prefix, d + 5)
    keys = scratch.ctypes.data
    zero = splat(ZERO)
    for s in range(len(n_prefix)):
        first, n, p = starts[s], starts[s + 1] - starts[s], n_prefix[s]
        text, columns = columns_of(n, p)
        step = 4 * columns
        biased = 4 * text if bias else step
        mask = keys + d * step
        weights = four_rows(mask + step, step, 0, 3)
        text_weights = advance(weights, 4 * text)
        write_mask(mask, n, p)
        for offset in range(0, 4 * heads * d, 4 * d):
            head_bias = bias + offset // (4 * d) * bias_step
            transpose_rows(key + offset, key_step, d, first, n, prefixes[s], p, keys)
            prefix_values = value + offset + prefixes[s] * value_step
            text_values = value + offset + first * value_step
            for i in range(first, first + n, 4):
                queries = four_rows(query + offset, query_step, i, first + n - 1)
                outputs = four_rows(output + offset, output_step, i, first + n - 1)
                biases = _bias_rows(head_bias, i - first, n, text)
                z = _exponentials(weights, queries, keys, mask, step, d, scaling, biases, biased)
                z0, z1, z2, z3 = (
                    splat(ONE / z[0]),
                    splat(ONE / z[1]),
                    splat(ONE / z[2]),
                    splat(ONE / z[3]),
                )
                for c in range(0, 4 * d, 4 * WIDTH):
                    a = (zero, zero, zero, zero)
                    a = weighted_sums(weights, prefix_values + c, value_step, p, a)
                    a = weighted_sums(text_weights, text_values + c, value_step, n, a)
                    sums = mul(a[0], z0), mul(a[1], z1), mul(a[2], z2), mul(a[3], z3)
                    write_rows(outputs, c, sums)
    scratch[0] = ZERO  # numba frees an array after its last use, and addresses are no uses


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64,"
    " int64, int64, int64[::1], int64[::1], int64[::1], int64, int64, float32,"
    " int64, int64)"
)
def _attend_backward(
    query: int,
    key: int,
    value: int,
    output: int,
    gradient: int,
    to_query: int,
    to_key: int,
    to_value: int,
    query_step: int,
    key_step: int,
    value_step: int,
    output_step: int,
    gradient_step: int,
    to_step: int,
    starts: Counts,
    prefixes: Counts,
    n_prefix: Counts,
    heads: int,
    d: int,
    scaling: float,
    bias: int,
    bias_step: int,
) -> None:
    scratch = _scratch(starts, n_prefix, 2 * d + 9)
    keys = scratch.ctypes.data
    zero, scale = splat(ZERO), splat(scaling)
    for s in range(len(n_prefix)):
        first, n, p, prefix = starts[s], starts[s + 1] - starts[s], n_prefix[s], prefixes[s]
        text, columns = columns_of(n, p)
        step = 4 * columns
        biased = 4 * text if bias else step
        values = keys + d * step
        mask = values + d * step
        weights = four_rows(mask + step, step, 0, 3)
        d_scores = advance(weights, 4 * step)  # gradients of the scores
        text_weights = advance(weights, 4 * text)
        text_d_scores = advance(d_scores, 4 * text)
        write_mask(mask, n, p)
        for offset in range(0, 4 * heads * d, 4 * d):
            head_bias = bias + offset // (4 * d) * bias_step
            transpose_rows(key + offset, key_step, d, first, n, prefix, p, keys)
            transpose_rows(value + offset, value_step, d, first, n, prefix, p, values)
            for i in range(first, first + n, 4):
                last = first + n - 1
                queries = four_rows(query + offset, query_step, i, last)
                gradients = four_rows(gradient + offset, gradient_step, i, last)
                output_rows = four_rows(output + offset, output_step, i, last)
                biases = _bias_rows(head_bias, i - first, n, text)
                z = _exponentials(weights, queries, keys, mask, step, d, scaling, biases, biased)
                for u in range(4):
                    # A repeated query has no weights.
                    factor = splat(ONE / z[u] if i + u <= last else ZERO)
                    dot = zero
                    for c in range(0, 4 * d, 4 * WIDTH):
                        dot = fma(load(gradients[u] + c), load(output_rows[u] + c), dot)
                    minus_dot = splat(-reduce_sum(dot))
                    for j in range(0, step, 4 * WIDTH):
                        weight = mul(load(weights[u] + j), factor)
                        store(weights[u] + j, weight)
                        store(d_scores[u] + j, minus_dot)
                for j in range(0, step, 4 * WIDTH):
                    a = weighted_sums(gradients, values + j, step, d, (zero, zero, zero, zero))
                    for u in range(4):
                        weight = mul(load(weights[u] + j), scale)
                        store(d_scores[u] + j, mul(weight, add(a[u], load(d_scores[u] + j))))
                for c in range(offset, offset + 4 * d, 4 * WIDTH):
                    a = (zero, zero, zero, zero)
                    a = weighted_sums(d_scores, key + prefix * key_step + c, key_step, p, a)
                    a = weighted_sums(text_d_scores, key + first * key_step + c, key_step, n, a)
                    for u in range(min(4, last - i + 1)):
                        store(to_query + (i + u) * to_step + c, a[u])
                    prefix_row, text_row = prefix * to_step + c, first * to_step + c
                    add_weighted(d_scores, queries, c - offset, to_key + prefix_row, to_step, p)
                    add_weighted(text_d_scores, queries, c - offset, to_key + text_row, to_step, n)
                    add_weighted(weights, gradients, c - offset, to_value + prefix_row, to_step, p)
                    add_weighted(
                        text_weights, gradients, c - offset, to_value + text_row, to_step, n
                    )
    scratch[0] = ZERO  # numba frees an array after its last use, and addresses are no uses
