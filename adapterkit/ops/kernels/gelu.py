"""GELU and its derivative in one pass, from one exponential.

torch computes an error function in the forward pass, and both that and an exponential in the
backward pass. The reference is torch's own GELU in float64, in the tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import compiled, helper
from .rows import read, write
from .simd import absolute, add, copysign, div, exp, fma, mul, splat

HALF, ONE = np.float32(0.5), np.float32(1.0)
ROOT = np.float32(1 / np.sqrt(2.0))
DENSITY = np.float32(1 / np.sqrt(2.0 * np.pi))

# erfc(z) = t (A1 + t (A2 + ...)) exp(-z^2) with t = 1 / (1 + P z), within 1.5e-7 for z of 0 and
# more: Abramowitz and Stegun 1964, 7.1.26.
P = np.float32(0.3275911)
A1, A2 = np.float32(0.254829592), np.float32(-0.284496736)
A3, A4, A5 = np.float32(1.421413741), np.float32(-1.453152027), np.float32(1.061405429)


def gelu(x: Tensor) -> Tensor:
    """GELU, exact and not its tanh approximation (Hendrycks and Gimpel 2016): `x Phi(x)`.

    Args:
        x: Contiguous, float32 or bfloat16; its size is a multiple of 16.

    Returns:
        A tensor like x; it is computed in float32.
    """
    y = torch.empty_like(x)
    _gelu(x.data_ptr(), y.data_ptr(), 0, x.numel(), x.dtype == torch.bfloat16)
    return y


def gelu_and_derivative(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU and its derivative, `Phi(x) + x phi(x)`.

    Args:
        x: As for `gelu`.

    Returns:
        Two tensors like x.
    """
    y, derivative = torch.empty_like(x), torch.empty_like(x)
    addresses = (x.data_ptr(), y.data_ptr(), derivative.data_ptr())
    _gelu(*addresses, x.numel(), x.dtype == torch.bfloat16)
    return y, derivative


@helper
def cumulative(x: Any, e: Any) -> Any:
    """Phi(x), the cumulative normal distribution; e is `exp(-x^2 / 2)`."""
    z = mul(absolute(x), splat(ROOT))
    t = div(splat(ONE), fma(z, splat(P), splat(ONE)))
    tail = fma(t, splat(A5), splat(A4))
    tail = fma(t, tail, splat(A3))
    tail = fma(t, tail, splat(A2))
    tail = fma(t, tail, splat(A1))
    signed_tail = mul(mul(mul(t, splat(-HALF)), tail), e)
    return add(splat(HALF), copysign(add(splat(HALF), signed_tail), x))


@helper
def bell(x: Any) -> Any:
    """`exp(-x^2 / 2)`."""
    return exp(mul(mul(x, x), splat(-HALF)))


@compiled("void(int64, int64, int64, int64, boolean)")
def _gelu(x: int, y: int, derivative: int, n: int, is_bfloat16: bool) -> None:
    density, step = splat(DENSITY), 2 if is_bfloat16 else 4  # bytes per number
    for offset in range(0, step * n, step * WIDTH):
        a = read(x + offset, is_bfloat16)
        e = bell(a)
        phi = cumulative(a, e)
        write(y + offset, mul(a, phi), is_bfloat16)
        if derivative:
            write(derivative + offset, fma(mul(a, e), density, phi), is_bfloat16)
