"""GELU by a compiled kernel, which computes the derivative in the forward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .bucketing import WIDTH


def gelu(x: Tensor) -> Tensor:
    """GELU, exact and not its tanh approximation (Hendrycks and Gimpel 2016), differentiable.

    torch computes it for tensors that the kernel does not take.
    """
    is_supported = x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu"
    if not is_supported or not x.is_contiguous() or x.numel() % WIDTH:
        return F.gelu(x)
    if x.requires_grad and torch.is_grad_enabled():
        apply: Any = _Gelu.apply
        output: Tensor = apply(x)
        return output
    from .kernels import gelu as kernel

    return kernel.gelu(x)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        from .kernels.gelu import gelu_and_derivative

        y, derivative = gelu_and_derivative(x)
        ctx.save_for_backward(derivative)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        derivative: Tensor = ctx.saved_tensors[0]
        return gradients[0] * derivative
