"""Frozen linears, prepared once: the weights never change, so oneDNN may lay them out for itself.

The operators are private to torch, so all that is known of them stands here, and plain linears
remain wherever they are missing, of another kind or not faster on this processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRIAL_TOKENS = 256
TRIALS = 5


class Prepared:
    """One frozen linear with its weight laid out for the product `x W^T + b`.

    The transpose, for the gradient towards the input, is laid out when it is first needed: serving
    never pays for it.
    """

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        self._ahead = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._back: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        if x.dtype != self.linear.weight.dtype or torch.is_autocast_enabled("cpu"):
            return F.linear(x, self.linear.weight, self.linear.bias)
        if x.requires_grad and torch.is_grad_enabled():
            apply: Any = _Product.apply
            output: Tensor = apply(x, self)
            return output
        return self.ahead(x)

    def ahead(self, x: Tensor) -> Tensor:
        """The product."""
        return _product(x, self._ahead, self.linear.bias)

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient towards the input, from the one towards the output."""
        if self._back is None:
            weight = self.linear.weight.detach().t().contiguous()
            self._back = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        return _product(gradient.contiguous(), self._back, None)


class _Product(torch.autograd.Function):
    """The product with a gradient towards the input alone: the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, prepared: Prepared) -> Tensor:
        ctx.prepared = prepared
        return prepared.ahead(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.prepared.back(gradients[0]), None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def prepare(linears: Iterable[nn.Module]) -> int:
    """Prepares the plain CPU linears among some frozen modules, where that makes them faster.

    One linear of each shape is timed both ways, some milliseconds each. State dict and hooks stay
    as they are.

    Returns:
        How many were prepared.
    """
    faster: dict[tuple[Any, ...], bool] = {}
    count = 0
    for linear in linears:
        if type(linear) is not nn.Linear or linear.weight.device.type != "cpu":
            continue
        kind = (linear.weight.shape, linear.weight.dtype)
        if kind not in faster:
            faster[kind] = _is_faster(linear)
        if faster[kind]:
            setattr(linear, "forward", Prepared(linear))  # noqa: B010
            count += 1
    return count


def _is_faster(linear: nn.Linear) -> bool:
    x = torch.randn(TRIAL_TOKENS, linear.in_features, dtype=linear.weight.dtype)
    try:
        prepared = Prepared(linear)
        with torch.inference_mode():
            plain, ready = (_seconds(run, x) for run in (linear.forward, prepared.ahead))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return ready < plain


def _seconds(run: Any, x: Tensor) -> float:
    run(x)
    best = float("inf")
    for _ in range(TRIALS):
        began = time.perf_counter()
        run(x)
        best = min(best, time.perf_counter() - began)
    return best
