"""Outer products of low-rank vectors and tokens: the gradients of low-rank weights, in one call."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from .arguments import as_rows, ones, row_arguments
from .compiling import Counts, Factors, compiled
from .rows import as_float32_row
from .simd import floats

ZERO = np.float32(0.0)


def outer(inner: Tensor, x: Tensor, starts: Counts, scales: Factors | None = None) -> Tensor:
    """Outer products of low-rank vectors and tokens, summed over each segment.

    Semantics: for segment g, `sums[g] = scale[g] * inner[segment g]' x[segment g]`.

    Args:
        inner: `[t, R]`, R even, as `low_rank.shrink` returns it.
        x: `[t, d]`.
        starts: First token of each of the G segments, then t.
        scales: Factor of each segment, 1 if omitted.

    Returns:
        `[G, R, d]`, float32.
    """
    scales = ones(len(starts) - 1) if scales is None else scales
    sums = torch.zeros(len(scales), inner.shape[1], x.shape[1])
    x, is_bfloat16 = as_rows(x)
    rows = *row_arguments(inner), *row_arguments(x)
    _outer(*rows, is_bfloat16, starts, scales, sums.data_ptr())
    return sums


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
    is_bfloat16: bool,
    starts: Counts,
    scales: Factors,
    sums: int,
) -> None:
    buffer = np.empty(4 * width, np.float32)
    rows, row_bytes = buffer.ctypes.data, 4 * width
    for g in range(len(scales)):
        output = numba.carray(floats(sums + g * ranks * row_bytes), (ranks, width))
        s, last = scales[g], starts[g + 1] - 1
        for t in range(starts[g], starts[g + 1], 4):
            # A repeated token has factor 0.
            t1, t2, t3 = min(t + 1, last), min(t + 2, last), min(t + 3, last)
            s1 = s if t + 1 <= last else ZERO
            s2 = s if t + 2 <= last else ZERO
            s3 = s if t + 3 <= last else ZERO
            r0 = as_float32_row(is_bfloat16, x + x_step * t, width, rows)
            r1 = as_float32_row(is_bfloat16, x + x_step * t1, width, rows + row_bytes)
            r2 = as_float32_row(is_bfloat16, x + x_step * t2, width, rows + 2 * row_bytes)
            r3 = as_float32_row(is_bfloat16, x + x_step * t3, width, rows + 3 * row_bytes)
            x0 = numba.carray(floats(r0), (width,))
            x1 = numba.carray(floats(r1), (width,))
            x2 = numba.carray(floats(r2), (width,))
            x3 = numba.carray(floats(r3), (width,))
            c0 = numba.carray(floats(inner + inner_step * t), (ranks,))
            c1 = numba.carray(floats(inner + inner_step * t1), (ranks,))
            c2 = numba.carray(floats(inner + inner_step * t2), (ranks,))
            c3 = numba.carray(floats(inner + inner_step * t3), (ranks,))
            for j in range(0, ranks, 2):
                first, second = output[j], output[j + 1]
                a0, a1, a2, a3 = s * c0[j], s1 * c1[j], s2 * c2[j], s3 * c3[j]
                b0, b1 = s * c0[j + 1], s1 * c1[j + 1]
                b2, b3 = s2 * c2[j + 1], s3 * c3[j + 1]
                for k in range(width):
                    p0, p1, p2, p3 = x0[k], x1[k], x2[k], x3[k]
                    first[k] += a0 * p0 + a1 * p1 + a2 * p2 + a3 * p3
                    second[k] += b0 * p0 + b1 * p1 + b2 * p2 + b3 * p3
    buffer[0] = ZERO  # numba frees an array after its last use
