"""Disentangled attention within each sequence of a packed batch, forward, without padding.

torch writes the scores of distances as tensors of all pairs of tokens. Here they are parts of lines
(`position_lines`), from which the scores of a few queries and a tile of keys start. Otherwise the
loop is that of `long_attention`. The reference is in `tests/ops/test_disentangled.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import Counts, as_float32_rows, compiled, helper
from .key_columns import MASKED, ZERO, KeySpans
from .long_attention import STEP, TILE, add_tile, divide_rows, read_tile
from .position_lines import (
    PAD,
    LineSpans,
    line_width,
    table_step,
    transpose_positions,
    write_lines,
)
from .rows import four_rows
from .simd import add, load, store, transpose

TableRows = tuple[Tensor, Counts]
"""A table of positions, `[M, heads * d]`, and its row for each bucket of each sequence."""


def attend_by_position(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: KeySpans,
    lines: LineSpans,
    tables: tuple[TableRows | None, TableRows | None],
    heads: int,
    scaling: float,
) -> Tensor:
    """Disentangled attention (`ops.disentangled`).

    Args:
        query: `[R, heads * d]`.
        key, value: `[R + P, heads * d]`, prefix keys after the batch's own.
        spans: The keys of each sequence.
        lines: The buckets of each sequence.
        tables: Keys and queries of positions; None for scores without the term.
        heads: Number of heads.
        scaling: Factor on the scores.

    Returns:
        `[R, heads * d]` in the dtype of the query, zero after the last sequence. d must be a
        multiple of 16.
    """
    dtype = query.dtype
    query, key, value = (as_float32_rows(x) for x in (query, key, value))
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    inputs = query, key, value, output
    # A tensor must outlive the call that reads it by its address.
    floats = [None if table is None else as_float32_rows(table[0]) for table in tables]
    addresses = [0 if x is None else x.data_ptr() for x in (*inputs, *floats)]
    steps = [0 if x is None else 4 * x.stride(0) for x in (*inputs, *floats)]
    key_rows, query_rows = (
        np.empty(0, np.int64) if table is None else table[1] for table in tables
    )
    sizes = heads, query.shape[1] // heads, scaling
    arrays = *spans.arrays, *lines.arrays, key_rows, query_rows
    _attend_by_position(*addresses, *steps, *arrays, *sizes)
    return output.to(dtype)


@helper
def _write_initial(
    initial: int,
    i: int,
    n: int,
    first_key: int,
    count: int,
    lines: tuple[int, int],
    reach: int,
    mask: int,
) -> None:
    """Writes what the scores of up to sixteen queries and the keys of a tile start from.

    Args:
        initial: A row of `STEP` bytes for each query from i on; n in all.
        first_key: The first key of the tile, which has `count` keys.
        lines: The lines of all queries, and those of the keys of the tile; 0 without the term.
    """
    query_lines, key_lines = lines
    width = 4 * line_width(reach)
    # Vectors that are further away than D read nothing but the number of D.
    farthest = reach + WIDTH - 1
    for j in range(0, count, WIDTH):
        block, m = initial + 4 * j, load(mask + 4 * j)
        if key_lines:
            distance = max(-farthest, min(farthest, i - first_key - j))
            line = key_lines + j * width + 4 * (PAD + reach + distance)
            # The distances of one query are shorter by one at each further key.
            transpose(line, width - 4, count - j, block, STEP)
        for u in range(min(WIDTH, n - i)):
            row, total = block + u * STEP, m
            if key_lines:
                total = add(total, load(row))
            if query_lines:
                distance = max(-farthest, min(reach, first_key + j - i - u))
                line = query_lines + (i + u) * width + 4 * (PAD + reach + distance)
                total = add(total, load(line))
            store(row, total)


@helper
def _scratch_sizes(starts: Counts, line_starts: Counts, reach: Counts) -> tuple[int, int, int, int]:
    """The most tokens, buckets, numbers of a line, and numbers of all lines of a sequence."""
    tokens = buckets = width = lines = 0
    for s in range(len(reach)):
        n = starts[s + 1] - starts[s]
        tokens, buckets = max(tokens, n), max(buckets, line_starts[s + 1] - line_starts[s])
        width, lines = max(width, line_width(reach[s])), max(lines, n * line_width(reach[s]))
    return tokens, buckets, width, lines


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64,"
    " int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1],"
    " int64[::1], int64[::1], int64, int64, float32)"
)
def _attend_by_position(
    query: int,
    key: int,
    value: int,
    output: int,
    key_table: int,
    query_table: int,
    query_step: int,
    key_step: int,
    value_step: int,
    output_step: int,
    key_table_step: int,
    query_table_step: int,
    starts: Counts,
    prefixes: Counts,
    n_prefix: Counts,
    line_starts: Counts,
    reaches: Counts,
    column_starts: Counts,
    columns: Counts,
    key_rows: Counts,
    query_rows: Counts,
    heads: int,
    d: int,
    scaling: float,
) -> None:
    tokens, buckets, width, all_lines = _scratch_sizes(starts, line_starts, reaches)
    line_bytes, table_bytes = table_step(buckets), d * table_step(buckets)
    scratch = np.empty(
        (d + WIDTH) * STEP // 4  # transposed keys, and what scores start from
        + (TILE + WIDTH) * d  # values, and rows to be transposed
        + 5 * TILE  # a mask, and the scores of four queries
        + (table_bytes + 2 * line_bytes) // 2  # both tables, and the products of four tokens
        + TILE * width
        + all_lines,
        np.float32,
    )
    keys = scratch.ctypes.data
    initial = keys + d * STEP
    values = initial + WIDTH * STEP
    buffer = values + 4 * TILE * d
    mask = buffer + 4 * WIDTH * d
    weights = four_rows(mask + 4 * TILE, 4 * TILE, 0, 3)
    position_keys = mask + 5 * 4 * TILE
    position_queries = position_keys + table_bytes
    products = position_queries + table_bytes
    key_lines = products + 4 * line_bytes
    query_lines = key_lines + 4 * TILE * width
    lines = query_lines if key_table else 0, key_lines if query_table else 0
    tile = keys, values, mask
    largest, total = np.empty(tokens, np.float32), np.empty(tokens, np.float32)
    for s in range(len(n_prefix)):
        first, n = starts[s], starts[s + 1] - starts[s]
        begin, end = line_starts[s], line_starts[s + 1]
        shape = reaches[s], column_starts[s]
        for offset in range(0, 4 * heads * d, 4 * d):
            largest[:n], total[:n] = MASKED, ZERO
            queries = query + first * query_step + offset
            outputs = output + first * output_step + offset
            if key_table:
                table, to = (key_table + offset, key_table_step), (position_keys, end - begin)
                transpose_positions(table, key_rows, begin, end, d, to[0], buffer)
                rows = queries, query_step
                write_lines(query_lines, rows, n, d, to, shape, columns, True, products)
            if query_table:
                table, to = (
                    (query_table + offset, query_table_step),
                    (position_queries, end - begin),
                )
                transpose_positions(table, query_rows, begin, end, d, to[0], buffer)
            for part in range(2):
                row = prefixes[s] if part == 0 else first
                count = n_prefix[s] if part == 0 else n
                for at in range(0, count, TILE):
                    size = min(TILE, count - at)
                    tile_keys = key + (row + at) * key_step + offset
                    tile_values = value + (row + at) * value_step + offset
                    read_tile(tile_keys, key_step, tile_values, value_step, size, d, tile)
                    if part == 1 and query_table:
                        rows, to = (tile_keys, key_step), (position_queries, end - begin)
                        write_lines(key_lines, rows, size, d, to, shape, columns, False, products)
                    for i in range(0, n, 4):
                        u, last = i % WIDTH, n - 1
                        if part == 1 and u == 0:
                            _write_initial(initial, i, n, at, size, lines, reaches[s], mask)
                        start = four_rows(initial, STEP, u, min(WIDTH, n - i + u) - 1)
                        add_tile(
                            weights,
                            four_rows(queries, query_step, i, last),
                            four_rows(outputs, output_step, i, last),
                            (i, min(i + 1, last), min(i + 2, last), min(i + 3, last)),
                            tile,
                            start if part == 1 else (mask, mask, mask, mask),
                            size,
                            d,
                            scaling,
                            largest,
                            total,
                        )
            divide_rows(outputs, output_step, n, d, total)
    scratch[0] = ZERO  # numba frees an array after its last use, and addresses are no uses
