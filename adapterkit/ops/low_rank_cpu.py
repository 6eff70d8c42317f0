"""The two low-rank layers of one adapter or many by the compiled kernels, differentiable once.

The reference is the loop in `tests/helpers/reference.py`. Tokens may be float32 or bfloat16;
low-rank vectors and weights are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from .kernels.low_rank import WeightPointers


@dataclass(frozen=True)
class LowRankCPU:
    """The two low-rank layers of each of G segments of tokens.

    Semantics: for segment g, `y += scale[g] * (up[g] f(down[g] x + down_bias[g]) + up_bias[g])`.

    Attributes:
        starts: First token of each segment, then t.
        down, up: The layers.
        down_biases, up_biases: Addresses of their biases; None without biases.
        scales: Factor of each segment.
        activation: f, from `[..., r]` to `[..., r]` of each token; None is the identity.
    """

    starts: NDArray[np.int64]
    down: WeightPointers
    up: WeightPointers
    down_biases: NDArray[np.int64] | None
    up_biases: NDArray[np.int64] | None
    scales: NDArray[np.float32]
    activation: Callable[[Tensor], Tensor] | None

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """Adds to y, `[t, out]`, in place; x is `[t, in]`."""
        self._expand(self._activate(self._shrink(x)), y, y)

    def add(
        self,
        y: Tensor,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        down_bias: Tensor | None,
        up_bias: Tensor | None,
    ) -> Tensor:
        """The sum as a new tensor, with gradients towards all arguments.

        Args:
            y: `[t, out]`.
            x: `[t, in]`.
            down, up: The layers as tensors that gradients flow to: `[G, r, in]` and `[G, out, r]`,
                smaller ranks padded with zeros.
            down_bias, up_bias: Their biases: `[G, r]` and `[G, out]`.
        """
        apply: Any = _Add.apply
        output: Tensor = apply(self, y, x, down, up, down_bias, up_bias)
        return output

    def _shrink(self, x: Tensor) -> Tensor:
        from .kernels.low_rank import shrink

        return shrink(x, self.starts, self.down, self.down_biases)

    def _activate(self, inner: Tensor) -> Tensor:
        return inner if self.activation is None else self.activation(inner)

    def _expand(self, inner: Tensor, y: Tensor, output: Tensor) -> None:
        from .kernels.low_rank import expand

        expand(inner, self.starts, self.up, self.up_biases, y, output, self.scales)

    def _activation_gradient(self, inner: Tensor, gradient: Tensor) -> Tensor:
        """The gradient towards the input of the activation, from the one towards its output."""
        if self.activation is None:
            return gradient
        with torch.enable_grad():
            inner = inner.detach().requires_grad_()
            return torch.autograd.grad(self.activation(inner), inner, gradient)[0]


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layers: LowRankCPU, y: Tensor, x: Tensor, *weights: Tensor | None
    ) -> Tensor:
        inner = layers._shrink(x)
        output = torch.empty_like(y)
        layers._expand(layers._activate(inner), y, output)
        ctx.save_for_backward(x, inner)
        ctx.layers = layers
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from .kernels.low_rank import expand, shrink
        from .kernels.outer_products import outer

        x, inner = ctx.saved_tensors
        layers: LowRankCPU = ctx.layers
        starts, scales = layers.starts, layers.scales
        _, _, *needed = ctx.needs_input_grad
        rank = layers.down.max_rank
        to_x = to_down = to_up = to_down_bias = to_up_bias = None
        to_inner = layers._activation_gradient(
            inner, shrink(gradient, starts, layers.up, None, scales)
        )
        if needed[0]:
            to_x = torch.empty_like(x)
            expand(to_inner, starts, layers.down, None, None, to_x)
        if needed[1]:
            to_down = outer(to_inner, x, starts)[:, :rank]
        if needed[2]:
            to_up = outer(layers._activate(inner), gradient, starts, scales)[:, :rank]
            to_up = to_up.transpose(1, 2)
        if needed[3]:
            to_down_bias = _segment_sums(to_inner, starts)[:, :rank]
        if needed[4]:
            to_up_bias = _segment_sums(gradient, starts) * torch.from_numpy(scales)[:, None]
        return None, gradient, to_x, to_down, to_up, to_down_bias, to_up_bias


def _segment_sums(x: Tensor, starts: NDArray[np.int64]) -> Tensor:
    """Sum of the tokens of each segment, `[G, d]`, float32."""
    return torch.from_numpy(np.add.reduceat(x.float().numpy(), starts[:-1]))
