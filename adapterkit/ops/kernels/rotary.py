"""Rotary positions in one pass over queries or keys.

torch needs a pass for each product and sum, and copies halves of heads. The reference is torch's
own arithmetic, in `ops/rotary.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from .arguments import row_arguments
from .compiling import compiled
from .rows import read, write
from .simd import fma, load, mul, splat

MINUS = np.float32(-1.0)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, y: Tensor) -> None:
    """Writes `(a cos - b sin, b cos + a sin)` for each head with halves a and b.

    Args:
        x: `[t, heads * d]` with contiguous rows, float32 or bfloat16; d is a multiple of 32.
        cos, sin: Float32 `[t, d / 2]`.
        y: Like x, or x itself; it is computed in float32.
    """
    cos, sin = cos.contiguous(), sin.contiguous()
    angles = cos.data_ptr(), sin.data_ptr(), cos.shape[1]
    target, target_step, _ = row_arguments(y)
    is_bfloat16 = x.dtype == torch.bfloat16
    _rotate(*row_arguments(x), *angles, target, target_step, len(x), is_bfloat16)


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, boolean)")
def _rotate(
    x: int,
    step: int,
    width: int,
    cos: int,
    sin: int,
    half: int,
    y: int,
    y_step: int,
    n: int,
    is_bfloat16: bool,
) -> None:
    size = 2 if is_bfloat16 else 4  # bytes per number
    for row in range(n):
        for c in range(0, half, WIDTH):
            angle = 4 * (row * half + c)
            cosine, sine = load(cos + angle), load(sin + angle)
            for head in range(c, width, 2 * half):
                first, second = size * head, size * (head + half)
                a = read(x + row * step + first, is_bfloat16)
                b = read(x + row * step + second, is_bfloat16)
                target = y + row * y_step
                turned = fma(mul(b, splat(MINUS)), sine, mul(a, cosine))
                write(target + first, turned, is_bfloat16)
                write(target + second, fma(a, sine, mul(b, cosine)), is_bfloat16)
