"""The gated GELU and its gradient, each in one pass. The reference is torch's, in the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import compiled
from .gelu import DENSITY, bell, cumulative
from .rows import read, write
from .simd import fma, mul, splat


def gated_gelu(x: Tensor) -> Tensor:
    """`gelu(a) b` for the halves a and b of each row.

    Args:
        x: Contiguous `[..., 2 n]`, float32 or bfloat16; n is a multiple of 16.

    Returns:
        `[..., n]` like x; it is computed in float32.
    """
    n = x.shape[-1] // 2
    y = x.new_empty((*x.shape[:-1], n))
    _gated_gelu(x.data_ptr(), y.data_ptr(), y.numel() // n, n, x.dtype == torch.bfloat16)
    return y


def gated_gelu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient towards x: `gradient b gelu'(a)` and `gradient gelu(a)`.

    Args:
        gradient: Towards the output, contiguous `[..., n]` in the dtype of x.
        x: As for `gated_gelu`.

    Returns:
        `[..., 2 n]` like x.
    """
    n, to_x = gradient.shape[-1], torch.empty_like(x)
    addresses = gradient.data_ptr(), x.data_ptr(), to_x.data_ptr()
    _gated_gelu_backward(*addresses, gradient.numel() // n, n, x.dtype == torch.bfloat16)
    return to_x


@compiled("void(int64, int64, int64, int64, boolean)")
def _gated_gelu(x: int, y: int, rows: int, n: int, is_bfloat16: bool) -> None:
    step = 2 if is_bfloat16 else 4  # bytes per number
    for row in range(rows):
        source, target = x + 2 * row * n * step, y + row * n * step
        for offset in range(0, step * n, step * WIDTH):
            a = read(source + offset, is_bfloat16)
            b = read(source + step * n + offset, is_bfloat16)
            write(target + offset, mul(mul(a, cumulative(a, bell(a))), b), is_bfloat16)


@compiled("void(int64, int64, int64, int64, int64, boolean)")
def _gated_gelu_backward(
    gradient: int, x: int, to_x: int, rows: int, n: int, is_bfloat16: bool
) -> None:
    density, step = splat(DENSITY), 2 if is_bfloat16 else 4  # bytes per number
    for row in range(rows):
        first, second = 2 * row * n * step, (2 * row + 1) * n * step
        for offset in range(0, step * n, step * WIDTH):
            a = read(x + first + offset, is_bfloat16)
            b = read(x + second + offset, is_bfloat16)
            g = read(gradient + row * n * step + offset, is_bfloat16)
            e = bell(a)
            phi = cumulative(a, e)
            derivative = fma(mul(a, e), density, phi)
            write(to_x + first + offset, mul(mul(g, b), derivative), is_bfloat16)
            write(to_x + second + offset, mul(mul(g, a), phi), is_bfloat16)
