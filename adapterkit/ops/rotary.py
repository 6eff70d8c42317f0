"""Rotary positions by a compiled kernel: queries and keys turned by angles of their position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .bucketing import WIDTH
from .memory import is_in_memory


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021), differentiable towards x.

    Semantics, for each head of a token with first half a and second half b, as in GPT-NeoX:
    `(a cos - b sin, b cos + a sin)`.

    Args:
        x: Queries, keys or both, `[t, heads * d]`; rows need not be adjacent. If gradients are off,
            they may be changed in place.
        cos, sin: Of the angles of each token, float32 `[t, d / 2]`.

    Returns:
        `[t, heads * d]` in the dtype of x, computed in float32.
    """
    if x.requires_grad and torch.is_grad_enabled():
        apply: Any = _Rotate.apply
        output: Tensor = apply(x, cos, sin)
        return output
    return _rotate(x, cos, sin, in_place=not torch.is_grad_enabled())


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradients[0], cos, -sin), None, None  # the transpose turns back


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, in_place: bool = False) -> Tensor:
    half = cos.shape[1]
    is_supported = x.dtype in (torch.float32, torch.bfloat16) and is_in_memory(x)
    if is_supported and half % WIDTH == 0 and x.stride(-1) == 1:
        from .kernels import rotary as kernel

        y = x if in_place else torch.empty_like(x, memory_format=torch.contiguous_format)
        kernel.rotate(x, cos, sin, y)
        return y
    heads = x.float().view(x.shape[0], -1, 2, half)
    a, b = heads.unbind(2)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=2).view(x.shape).to(x.dtype)
