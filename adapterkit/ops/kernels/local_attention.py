"""Attention of local layers: every token attends to the tokens around it and to the whole prefix.

The work grows with the window and not with the text: a sequence is divided into blocks of queries,
and only the keys that a block can reach are transposed for it. Otherwise the loops are those of
`attention`, and so are their results for sequences that fit into one block. The reference is in
`tests/helpers/reference.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import Counts, Factors, as_float32_rows, compiled, helper
from .key_columns import (
    MASKED,
    ONE,
    ZERO,
    KeySpans,
    add_weighted,
    columns_of,
    transpose_rows,
    write_rows,
)
from .rows import FourRows, advance, four_rows, weighted_sums
from .simd import add, exp, floats, fma, load, maximum, mul, reduce_max, reduce_sum, splat, store

BLOCK = 64
"""Queries of a block. More of them share the transposed keys, which then need more memory."""


def attend_locally(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: KeySpans,
    window: int,
    heads: int,
    scaling: float,
) -> Tensor:
    """`attention.attend`, but a token attends only to the prefix and to tokens near it.

    Args:
        query, key, value, spans, heads, scaling: As of `attention.attend`.
        window: Greatest distance of a token that is attended to.
    """
    dtype = query.dtype
    query, key, value = (as_float32_rows(x) for x in (query, key, value))
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    steps = [4 * x.stride(0) for x in (query, key, value)]
    addresses = [x.data_ptr() for x in (query, key, value, output)]
    width = query.shape[1]
    sizes = window, heads, width // heads
    _attend_locally(*addresses, *steps, 4 * width, *spans.arrays, *sizes, scaling)
    return output.to(dtype)


def attend_locally_backward(
    gradient: Tensor,
    output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: KeySpans,
    window: int,
    heads: int,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `attend_locally`, by the formulas of `attention.attend_backward`.

    Args:
        gradient: Towards the output of `attend_locally`, `[R, heads * d]`.
        output: That output.
        query, key, value, spans, window, heads, scaling: The arguments of `attend_locally`.

    Returns:
        The gradients towards query, key and value, in their dtypes.
    """
    dtypes = query.dtype, key.dtype, value.dtype
    inputs = [as_float32_rows(x) for x in (query, key, value, output, gradient)]
    results = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in inputs[:3]]
    addresses = [x.data_ptr() for x in (*inputs, *results)]
    steps = [4 * x.stride(0) for x in inputs]
    width = query.shape[1]
    sizes = window, heads, width // heads
    _attend_locally_backward(*addresses, *steps, 4 * width, *spans.arrays, *sizes, scaling)
    to_query, to_key, to_value = (x.to(kind) for x, kind in zip(results, dtypes, strict=True))
    return to_query, to_key, to_value


# A block has queries `first` to `end` of a sequence of n tokens. Its columns are those of the
# prefix, then those of the keys from `reach[0]` on, up to and without `reach[1]`. Four queries read
# the columns of the prefix and some of the others, `near`. Each query has a mask of its own.


@helper
def _reach(first: int, end: int, n: int, window: int) -> tuple[int, int]:
    """First and past-the-last token that some of the queries `first` to `end` attend to."""
    return max(0, first - window), min(n, end + window)


@helper
def _write_masks(
    masks: int, step: int, first: int, end: int, reach: tuple[int, int], p: int, window: int
) -> None:
    """Writes a mask for each query of a block: one number for each column."""
    text, columns = columns_of(reach[1] - reach[0], p)
    for query in range(first, end):
        row = floats(masks + (query - first) * step)
        near = max(reach[0], query - window), min(reach[1], query + window + 1)
        for j in range(columns):
            token = j - text + reach[0]
            row[j] = ZERO if j < p or (j >= text and near[0] <= token < near[1]) else MASKED


@helper
def _near(i: int, end: int, n: int, begin: int, window: int) -> tuple[int, int]:
    """First and past-the-last column, in whole vectors, that four queries from i on attend to.

    Columns are counted from that of the token `begin`.
    """
    first, last = _reach(i, min(i + 4, end), n, window)
    return (first - begin) // WIDTH * WIDTH, -((begin - last) // WIDTH) * WIDTH


@helper
def _exponentials(
    rows: FourRows,
    queries: FourRows,
    keys: int,
    masks: FourRows,
    step: int,
    d: int,
    scaling: float,
    parts: tuple[tuple[int, int], tuple[int, int]],
) -> Any:
    """Writes `exp(scaling (score - largest score))` of four queries and the columns of two parts.

    Args:
        parts: First and past-the-last byte of the columns of the prefix, and of those of the text.

    Returns:
        The sum of each of the four rows.
    """
    t0 = t1 = t2 = t3 = splat(MASKED)
    for begin, end in parts:
        for j in range(begin, end, 4 * WIDTH):
            m = load(masks[0] + j), load(masks[1] + j), load(masks[2] + j), load(masks[3] + j)
            scores = weighted_sums(queries, keys + j, step, d, m)
            t0, t1 = maximum(t0, scores[0]), maximum(t1, scores[1])
            t2, t3 = maximum(t2, scores[2]), maximum(t3, scores[3])
            write_rows(rows, j, scores)
    b0, b1 = splat(-scaling * reduce_max(t0)), splat(-scaling * reduce_max(t1))
    b2, b3 = splat(-scaling * reduce_max(t2)), splat(-scaling * reduce_max(t3))
    scale = splat(scaling)
    z0 = z1 = z2 = z3 = splat(ZERO)
    for begin, end in parts:
        for j in range(begin, end, 4 * WIDTH):
            a0 = exp(fma(load(rows[0] + j), scale, b0))
            a1 = exp(fma(load(rows[1] + j), scale, b1))
            a2 = exp(fma(load(rows[2] + j), scale, b2))
            a3 = exp(fma(load(rows[3] + j), scale, b3))
            z0, z1, z2, z3 = add(z0, a0), add(z1, a1), add(z2, a2), add(z3, a3)
            write_rows(rows, j, (a0, a1, a2, a3))
    return reduce_sum(z0), reduce_sum(z1), reduce_sum(z2), reduce_sum(z3)


@helper
def _scratch(starts: Counts, n_prefix: Counts, window: int, rows: int) -> Factors:
    """Memory for a number of rows, each as long as the columns of the largest block."""
    columns = 0
    for s in range(len(n_prefix)):
        reached = min(starts[s + 1] - starts[s], BLOCK + 2 * window)
        columns = max(columns, columns_of(reached, n_prefix[s])[1])
    return np.empty(rows * columns, np.float32)


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64[::1], int64[::1],"
    " int64[::1], int64, int64, int64, float32)"
)
def _attend_locally(
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
    window: int,
    heads: int,
    d: int,
    scaling: float,
) -> None:
    scratch = _scratch(starts, n_prefix, window, d + BLOCK + 4)
    keys = scratch.ctypes.data
    zero = splat(ZERO)
    for s in range(len(n_prefix)):
        start, n, p = starts[s], starts[s + 1] - starts[s], n_prefix[s]
        for first in range(0, n, BLOCK):
            end = min(first + BLOCK, n)
            reach = _reach(first, end, n, window)
            begin, reached = start + reach[0], reach[1] - reach[0]
            text, columns = columns_of(reached, p)
            step = 4 * columns
            masks = keys + d * step
            weights = four_rows(masks + BLOCK * step, step, 0, 3)
            _write_masks(masks, step, first, end, reach, p, window)
            for offset in range(0, 4 * heads * d, 4 * d):
                transpose_rows(key + offset, key_step, d, begin, reached, prefixes[s], p, keys)
                prefix_values = value + offset + prefixes[s] * value_step
                for i in range(first, end, 4):
                    last = start + end - 1
                    queries = four_rows(query + offset, query_step, start + i, last)
                    outputs = four_rows(output + offset, output_step, start + i, last)
                    own_masks = four_rows(masks, step, i - first, end - 1 - first)
                    near = _near(i, end, n, reach[0], window)
                    parts = ((0, 4 * text), (4 * (text + near[0]), 4 * (text + near[1])))
                    z = _exponentials(weights, queries, keys, own_masks, step, d, scaling, parts)
                    z0, z1, z2, z3 = (
                        splat(ONE / z[0]),
                        splat(ONE / z[1]),
                        splat(ONE / z[2]),
                        splat(ONE / z[3]),
                    )
                    near_weights = advance(weights, parts[1][0])
                    near_values = value + offset + (begin + near[0]) * value_step
                    count = min(near[1], reached) - near[0]
                    for c in range(0, 4 * d, 4 * WIDTH):
                        a = (zero, zero, zero, zero)
                        a = weighted_sums(weights, prefix_values + c, value_step, p, a)
                        a = weighted_sums(near_weights, near_values + c, value_step, count, a)
                        sums = mul(a[0], z0), mul(a[1], z1), mul(a[2], z2), mul(a[3], z3)
                        write_rows(outputs, c, sums)
    scratch[0] = ZERO  # numba frees an array after its last use, and addresses are no uses


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64,"
    " int64, int64, int64[::1], int64[::1], int64[::1], int64, int64, int64, float32)"
)
def _attend_locally_backward(
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
    window: int,
    heads: int,
    d: int,
    scaling: float,
) -> None:
    scratch = _scratch(starts, n_prefix, window, 2 * d + BLOCK + 8)
    keys = scratch.ctypes.data
    zero, scale = splat(ZERO), splat(scaling)
    for s in range(len(n_prefix)):
        start, n, p, prefix = starts[s], starts[s + 1] - starts[s], n_prefix[s], prefixes[s]
        for first in range(0, n, BLOCK):
            end = min(first + BLOCK, n)
            reach = _reach(first, end, n, window)
            begin, reached = start + reach[0], reach[1] - reach[0]
            text, columns = columns_of(reached, p)
            step = 4 * columns
            values = keys + d * step
            masks = values + d * step
            weights = four_rows(masks + BLOCK * step, step, 0, 3)
            d_scores = advance(weights, 4 * step)  # gradients of the scores
            _write_masks(masks, step, first, end, reach, p, window)
            for offset in range(0, 4 * heads * d, 4 * d):
                transpose_rows(key + offset, key_step, d, begin, reached, prefix, p, keys)
                transpose_rows(value + offset, value_step, d, begin, reached, prefix, p, values)
                for i in range(first, end, 4):
                    last = start + end - 1
                    queries = four_rows(query + offset, query_step, start + i, last)
                    gradients = four_rows(gradient + offset, gradient_step, start + i, last)
                    output_rows = four_rows(output + offset, output_step, start + i, last)
                    own_masks = four_rows(masks, step, i - first, end - 1 - first)
                    near = _near(i, end, n, reach[0], window)
                    parts = ((0, 4 * text), (4 * (text + near[0]), 4 * (text + near[1])))
                    z = _exponentials(weights, queries, keys, own_masks, step, d, scaling, parts)
                    for u in range(4):
                        # A repeated query has no weights.
                        factor = splat(ONE / z[u] if i + u < end else ZERO)
                        dot = zero
                        for c in range(0, 4 * d, 4 * WIDTH):
                            dot = fma(load(gradients[u] + c), load(output_rows[u] + c), dot)
                        minus_dot = splat(-reduce_sum(dot))
                        for part in parts:
                            for j in range(part[0], part[1], 4 * WIDTH):
                                weight = mul(load(weights[u] + j), factor)
                                store(weights[u] + j, weight)
                                store(d_scores[u] + j, minus_dot)
                    for part in parts:
                        for j in range(part[0], part[1], 4 * WIDTH):
                            a = (zero, zero, zero, zero)
                            a = weighted_sums(gradients, values + j, step, d, a)
                            for u in range(4):
                                weight = mul(load(weights[u] + j), scale)
                                change = add(a[u], load(d_scores[u] + j))
                                store(d_scores[u] + j, mul(weight, change))
                    near_weights = advance(weights, parts[1][0])
                    near_d_scores = advance(d_scores, parts[1][0])
                    row, count = begin + near[0], min(near[1], reached) - near[0]
                    for c in range(offset, offset + 4 * d, 4 * WIDTH):
                        a = (zero, zero, zero, zero)
                        a = weighted_sums(d_scores, key + prefix * key_step + c, key_step, p, a)
                        near_keys = key + row * key_step + c
                        a = weighted_sums(near_d_scores, near_keys, key_step, count, a)
                        for u in range(min(4, end - i)):
                            store(to_query + (start + i + u) * to_step + c, a[u])
                        column, far, close = c - offset, prefix * to_step + c, row * to_step + c
                        add_weighted(d_scores, queries, column, to_key + far, to_step, p)
                        add_weighted(near_d_scores, queries, column, to_key + close, to_step, count)
                        add_weighted(weights, gradients, column, to_value + far, to_step, p)
                        add_weighted(
                            near_weights, gradients, column, to_value + close, to_step, count
                        )
    scratch[0] = ZERO  # numba frees an array after its last use, and addresses are no uses
