"""Attention within long sequences, forward: `attention` tile by tile.

The keys and values of one head of a long text do not fit into the processor's caches. Here all
queries meet one tile of keys after the other, and softmax is corrected from tile to tile (Milakov
and Gimelshein 2018; Dao et al. 2022). The backward pass is that of `attention`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import Counts, Factors, as_float32_rows, compiled, helper
from .key_columns import MASKED, ONE, ZERO, KeySpans, write_rows
from .rows import FourRows, four_rows, weighted_sums
from .simd import (
    add,
    exp,
    floats,
    fma,
    load,
    maximum,
    mul,
    reduce_max,
    reduce_sum,
    splat,
    store,
    transpose,
)

TILE = 128
"""Keys of a tile."""

STEP = 4 * (TILE + WIDTH)
"""Bytes from a row of transposed keys to the next. Rows at powers of two share few cache lines."""


def attend_in_tiles(
    query: Tensor, key: Tensor, value: Tensor, spans: KeySpans, heads: int, scaling: float
) -> Tensor:
    """`attention.attend`, with the same arguments and the same output up to rounding."""
    dtype = query.dtype
    query, key, value = (as_float32_rows(x) for x in (query, key, value))
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    steps = [4 * x.stride(0) for x in (query, key, value)]
    addresses = [x.data_ptr() for x in (query, key, value, output)]
    width = query.shape[1]
    _attend_in_tiles(*addresses, *steps, 4 * width, *spans.arrays, heads, width // heads, scaling)
    return output.to(dtype)


@helper
def read_tile(
    key: int,
    key_step: int,
    value: int,
    value_step: int,
    n: int,
    d: int,
    tile: tuple[int, int, int],
) -> None:
    """Transposes n keys, lays their values side by side, and writes the mask.

    Args:
        key, value: Addresses of the first rows.
        tile: Where keys, values and mask are written.
    """
    keys, values, mask = tile
    for j in range(TILE):
        floats(mask)[j] = ZERO if j < n else MASKED
    for c in range(0, d, WIDTH):
        for j in range(0, n, WIDTH):
            source, target = key + j * key_step + 4 * c, keys + c * STEP + 4 * j
            transpose(source, key_step, n - j, target, STEP)
    for j in range(n):
        for c in range(0, 4 * d, 4 * WIDTH):
            store(values + j * 4 * d + c, load(value + j * value_step + c))


@helper
def divide_rows(x: int, step: int, n: int, d: int, divisors: Factors) -> None:
    """Divides d numbers of each of n rows by the divisor of the row."""
    for i in range(n):
        factor = splat(ONE / divisors[i])
        for c in range(x + i * step, x + i * step + 4 * d, 4 * WIDTH):
            store(c, mul(load(c), factor))


@helper
def _scores(
    rows: FourRows, queries: FourRows, keys: int, initial: FourRows, columns: int, d: int
) -> tuple[float, float, float, float]:
    """Writes the scores of four queries and the columns of a tile.

    Args:
        initial: Rows to which the products of queries and keys are added.

    Returns:
        The largest score of each query.
    """
    t0 = t1 = t2 = t3 = splat(MASKED)
    for j in range(0, 4 * columns, 4 * WIDTH):
        m = load(initial[0] + j), load(initial[1] + j), load(initial[2] + j), load(initial[3] + j)
        scores = weighted_sums(queries, keys + j, STEP, d, m)
        t0, t1 = maximum(t0, scores[0]), maximum(t1, scores[1])
        t2, t3 = maximum(t2, scores[2]), maximum(t3, scores[3])
        write_rows(rows, j, scores)
    return reduce_max(t0), reduce_max(t1), reduce_max(t2), reduce_max(t3)


@helper
def _exponentials(row: int, columns: int, largest: float, scaling: float) -> float:
    """Writes `exp(scaling (score - largest))` over the scores of a row; returns their sum."""
    scale, shift, z = splat(scaling), splat(-scaling * largest), splat(ZERO)
    for j in range(row, row + 4 * columns, 4 * WIDTH):
        a = exp(fma(load(j), scale, shift))
        z = add(z, a)
        store(j, a)
    total: float = reduce_sum(z)
    return total


@helper
def add_tile(
    weights: FourRows,
    queries: FourRows,
    outputs: FourRows,
    seen: tuple[int, int, int, int],
    tile: tuple[int, int, int],
    initial: FourRows,
    n: int,
    d: int,
    scaling: float,
    largest: Factors,
    total: Factors,
) -> None:
    """Adds a tile of n keys to the outputs of four queries, which are not divided by `total` yet.

    Args:
        seen: Index of each query in `largest` and `total`: its largest score so far, and the sum
            of its exponentials.
        tile: The tile, as `read_tile` wrote it.
        initial: Rows with the mask, or with the mask and what is added to the scores of each query
            before they are scaled.
    """
    keys, values, _ = tile
    columns = -(-n // WIDTH) * WIDTH
    best = _scores(weights, queries, keys, initial, columns, d)
    t0, t1 = max(largest[seen[0]], best[0]), max(largest[seen[1]], best[1])
    t2, t3 = max(largest[seen[2]], best[2]), max(largest[seen[3]], best[3])
    f0 = np.float32(np.exp(scaling * (largest[seen[0]] - t0)))
    f1 = np.float32(np.exp(scaling * (largest[seen[1]] - t1)))
    f2 = np.float32(np.exp(scaling * (largest[seen[2]] - t2)))
    f3 = np.float32(np.exp(scaling * (largest[seen[3]] - t3)))
    z0 = f0 * total[seen[0]] + _exponentials(weights[0], columns, t0, scaling)
    z1 = f1 * total[seen[1]] + _exponentials(weights[1], columns, t1, scaling)
    z2 = f2 * total[seen[2]] + _exponentials(weights[2], columns, t2, scaling)
    z3 = f3 * total[seen[3]] + _exponentials(weights[3], columns, t3, scaling)
    largest[seen[0]], largest[seen[1]], largest[seen[2]], largest[seen[3]] = t0, t1, t2, t3
    total[seen[0]], total[seen[1]], total[seen[2]], total[seen[3]] = z0, z1, z2, z3
    for c in range(0, 4 * d, 4 * WIDTH):
        a: Any = (
            mul(load(outputs[0] + c), splat(f0)),
            mul(load(outputs[1] + c), splat(f1)),
            mul(load(outputs[2] + c), splat(f2)),
            mul(load(outputs[3] + c), splat(f3)),
        )
        write_rows(outputs, c, weighted_sums(weights, values + c, 4 * d, n, a))


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64[::1], int64[::1],"
    " int64[::1], int64, int64, float32)"
)
def _attend_in_tiles(
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
) -> None:
    scratch = np.empty(d * STEP // 4 + TILE * d + TILE + 4 * TILE, np.float32)
    keys = scratch.ctypes.data
    values = keys + d * STEP
    mask = values + 4 * TILE * d
    tile = keys, values, mask
    weights = four_rows(mask + 4 * TILE, 4 * TILE, 0, 3)
    longest = 0
    for s in range(len(n_prefix)):
        longest = max(longest, starts[s + 1] - starts[s])
    largest, total = np.empty(longest, np.float32), np.empty(longest, np.float32)
    for s in range(len(n_prefix)):
        first, n = starts[s], starts[s + 1] - starts[s]
        for offset in range(0, 4 * heads * d, 4 * d):
            largest[:], total[:] = MASKED, ZERO
            for part in range(2):
                begin = prefixes[s] if part == 0 else first
                count = n_prefix[s] if part == 0 else n
                for at in range(0, count, TILE):
                    size = min(TILE, count - at)
                    row = begin + at
                    keys_at, values_at = key + row * key_step, value + row * value_step
                    read_tile(
                        keys_at + offset, key_step, values_at + offset, value_step, size, d, tile
                    )
                    for i in range(0, n, 4):
                        last = n - 1
                        seen = i, min(i + 1, last), min(i + 2, last), min(i + 3, last)
                        add_tile(
                            weights,
                            four_rows(query + first * query_step + offset, query_step, i, last),
                            four_rows(output + first * output_step + offset, output_step, i, last),
                            seen,
                            tile,
                            (mask, mask, mask, mask),
                            size,
                            d,
                            scaling,
                            largest,
                            total,
                        )
            divide_rows(output + first * output_step + offset, output_step, n, d, total)
    scratch[0] = ZERO  # numba frees an array after its last use, and addresses are no uses
