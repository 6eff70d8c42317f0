"""One adapter's thin product where gradients flow: a single step there, and a single step back.

Its plain twin is the loop in `tests/reference.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def thin(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """`y + scale * up down x`, in the dtype of y; gradients in the dtypes of what they belong to.

    Args:
        y: What is added to, `[t, out]`.
        x: Tokens `[t, in]`.
        down: `[r, in]`.
        up: `[out, r]`.
        scale: Factor on what is added.
    """
    apply: Any = _Thin.apply
    output: Tensor = apply(y, x, down, up, scale)
    return output


class _Thin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        inner = x.mm(down.to(x.dtype).t()).to(y.dtype)
        ctx.save_for_backward(x, inner, down, up)
        ctx.scale = scale
        return torch.addmm(y, inner, up.to(y.dtype).t(), alpha=scale).to(y.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, down, up = ctx.saved_tensors
        (onto,) = gradients
        thinned = onto.mm(up.to(onto.dtype)).mul_(ctx.scale).to(x.dtype)
        back = thinned.mm(down.to(x.dtype)) if ctx.needs_input_grad[1] else None
        # Thin on the left is four times as fast as thin on the right.
        outer = inner.t().mm(onto).mul_(ctx.scale).t()
        return onto, back, thinned.t().mm(x).to(down.dtype), outer.to(up.dtype), None
