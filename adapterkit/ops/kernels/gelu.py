"""GELU and its slope in one reading: one exponential gives both.

torch computes GELU's error function on the way there, and that and an exponential on the way back.
The plain twin is torch's own, in float64, in `tests/ops/test_gelu.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import compiled, helper
from .lines import read, write
from .simd import add, exp, fma, mul, over, signed, size, splat

HALF, ONE = np.float32(0.5), np.float32(1.0)
ROOT = np.float32(1 / np.sqrt(2.0))
DENSITY = np.float32(1 / np.sqrt(2.0 * np.pi))

# erfc(z) = t (A1 + t (A2 + ...)) exp(-z^2) with t = 1 / (1 + P z), within 1.5e-7 for z of 0 and
# more: Abramowitz and Stegun 1964, 7.1.26.
P = np.float32(0.3275911)
A1, A2 = np.float32(0.254829592), np.float32(-0.284496736)
A3, A4, A5 = np.float32(1.421413741), np.float32(-1.453152027), np.float32(1.061405429)


def gelu(x: Tensor) -> Tensor:
    """GELU, exact and not the tanh kind (Hendrycks and Gimpel 2016): `x Phi(x)`.

    Args:
        x: Contiguous, float32 or bfloat16, as many numbers as fill whole vectors.

    Returns:
        As x; computed in float32.
    """
    y = torch.empty_like(x)
    _gelu(x.data_ptr(), y.data_ptr(), 0, x.numel(), x.dtype == torch.bfloat16)
    return y


def gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU, and its derivative at the same places: `Phi(x) + x phi(x)`.

    Args:
        x: As `gelu` takes it.

    Returns:
        Both as x.
    """
    y, slope = torch.empty_like(x), torch.empty_like(x)
    places = (x.data_ptr(), y.data_ptr(), slope.data_ptr())
    _gelu(*places, x.numel(), x.dtype == torch.bfloat16)
    return y, slope


@helper
def _cumulative(x: Any, e: Any) -> Any:
    """Phi(x), the normal distribution's; e is `exp(-x^2 / 2)`."""
    z = mul(size(x), splat(ROOT))
    t = over(splat(ONE), fma(z, splat(P), splat(ONE)))
    tail = fma(t, splat(A5), splat(A4))
    tail = fma(t, tail, splat(A3))
    tail = fma(t, tail, splat(A2))
    tail = fma(t, tail, splat(A1))
    half_of_it = mul(mul(mul(t, splat(-HALF)), tail), e)
    return add(splat(HALF), signed(add(splat(HALF), half_of_it), x))


@helper
def _bell(x: Any) -> Any:
    """`exp(-x^2 / 2)`."""
    return exp(mul(mul(x, x), splat(-HALF)))


@compiled("void(int64, int64, int64, int64, boolean)")
def _gelu(x: int, y: int, slope: int, n: int, half: bool) -> None:
    density, step = splat(DENSITY), 2 if half else 4  # bytes of a number
    for at in range(0, step * n, step * WIDTH):
        a = read(x + at, half)
        e = _bell(a)
        phi = _cumulative(a, e)
        write(y + at, mul(a, phi), half)
        if slope:
            write(slope + at, fma(mul(a, e), density, phi), half)
