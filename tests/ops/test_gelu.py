"""The compiled GELU against torch's, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapterkit.ops.gelu import gelu
from adapterkit.ops.kernels import gelu as kernel

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3}
"""Largest error, relative or absolute; bfloat16 has 8 bits, so rounding errs by up to 2^-9."""


def reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """torch's own in float64, and its derivative."""
    exact = x.detach().double().requires_grad_()
    y = F.gelu(exact)
    return y.detach(), torch.autograd.grad(y.sum(), exact)[0]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_value_and_derivative_equal_torch(dtype: torch.dtype) -> None:
    x = torch.linspace(-12, 12, 32 * 500).to(dtype).view(500, 32)
    y, derivative = kernel.gelu_and_derivative(x)
    tolerance = TOLERANCE[dtype]
    for result, expected in zip((y, derivative), reference(x), strict=True):
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(kernel.gelu(x), y)


@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.float64])
@pytest.mark.parametrize("width", [48, 7])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_gradients_are_right_in_any_layout(dtype: torch.dtype, width: int, layout: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, width, dtype=torch.float64).to(dtype)
    x = x.t().contiguous().t() if layout == "columns" else x
    x.requires_grad_()
    gradient = torch.randn(5, width).to(dtype)
    y = gelu(x)
    (result,) = torch.autograd.grad(y, x, gradient)
    value, derivative = reference(x)
    tolerance = 4 * TOLERANCE.get(dtype, 1e-12)
    for one, expected in ((y, value), (result, derivative * gradient.double())):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), expected, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        assert torch.equal(gelu(x), y)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nan_stays_nan(dtype: torch.dtype) -> None:
    x = torch.zeros(16, dtype=dtype)
    x[3], x[4], x[5] = float("nan"), float("inf"), -100.0
    y, derivative = kernel.gelu_and_derivative(x)
    assert y[3].isnan()
    assert derivative[3].isnan()
    assert y[4] == float("inf")
    assert max(abs(float(y[5])), abs(float(derivative[5]))) < 1e-35
    assert not y[[0, 1, 2, *range(6, 16)]].any()


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    """For large numbers GELU is the identity, so only reading and writing are tested."""
    x = torch.arange(0x4110, 0x4110 + 16 * 64, dtype=torch.int16).view(torch.bfloat16)
    assert torch.equal(kernel.gelu(x), x)
    small = torch.linspace(-3, 3, 16 * 400)
    expected = kernel.gelu(small.bfloat16().float()).bfloat16()
    assert torch.equal(kernel.gelu(small.bfloat16()), expected)
