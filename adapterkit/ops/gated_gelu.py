"""The gated GELU of a feed-forward block by a compiled kernel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .bucketing import WIDTH
from .memory import is_in_memory


def gated_gelu(x: Tensor) -> Tensor:
    """`gelu(a) b` for the first half a and the second half b of x (GEGLU, Shazeer 2020).

    torch computes it for tensors that the kernel does not take.

    Args:
        x: `[..., 2 n]`.

    Returns:
        `[..., n]`, differentiable.
    """
    is_supported = x.dtype in (torch.float32, torch.bfloat16) and is_in_memory(x)
    if not is_supported or not x.is_contiguous() or x.shape[-1] % (2 * WIDTH):
        a, b = x.chunk(2, dim=-1)
        return F.gelu(a) * b
    if x.requires_grad and torch.is_grad_enabled():
        apply: Any = _GatedGelu.apply
        output: Tensor = apply(x)
        return output
    from .kernels import gated_gelu as kernel

    return kernel.gated_gelu(x)


class _GatedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        from .kernels import gated_gelu as kernel

        ctx.save_for_backward(x)
        return kernel.gated_gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        from .kernels import gated_gelu as kernel

        (x,) = ctx.saved_tensors
        return kernel.gated_gelu_backward(gradients[0].to(x.dtype).contiguous(), x)
