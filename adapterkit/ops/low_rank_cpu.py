"""Two thin layers of one adapter or many by the compiled kernels, with a way back through both.

Their plain twin is the loop in `tests/helpers/reference.py`. Whatever the dtype of wide tokens,
thin ones and weights are float32. There is no second derivative.
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
    """Two thin layers of each of G runs of tokens, where they lie.

    Semantics: for run g, `y += scale[g] * (up[g] f(down[g] x + down_bias[g]) + up_bias[g])`.

    Attributes:
        starts: First token of each run, then t.
        down, up: The layers.
        down_biases, up_biases: Addresses of their biases.
        scales: Factor of each run.
        activation: f, elementwise; none is the identity.
    """

    starts: NDArray[np.int64]
    down: WeightPointers
    up: WeightPointers
    down_biases: NDArray[np.int64] | None
    up_biases: NDArray[np.int64] | None
    scales: NDArray[np.float32]
    activation: Callable[[Tensor], Tensor] | None

    def into(self, y: Tensor, x: Tensor) -> None:
        """Adds to y `[t, out]` in place what becomes of x `[t, in]`."""
        self._onto(y, self._activated(self._shrunk(x)), y)

    def plus(
        self,
        y: Tensor,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        down_bias: Tensor | None,
        up_bias: Tensor | None,
    ) -> Tensor:
        """The sum anew, with a way back.

        Args:
            y: `[t, out]`.
            x: `[t, in]`.
            down, up: The layers once more, for their gradients: `[G, r, in]` and `[G, out, r]`,
                smaller ranks filled up.
            down_bias, up_bias: Likewise `[G, r]` and `[G, out]`.
        """
        apply: Any = _Plus.apply
        output: Tensor = apply(self, y, x, down, up, down_bias, up_bias)
        return output

    def _shrunk(self, x: Tensor) -> Tensor:
        from .kernels.low_rank import shrink

        return shrink(x, self.starts, self.down, self.down_biases)

    def _activated(self, inner: Tensor) -> Tensor:
        return inner if self.activation is None else self.activation(inner)

    def _onto(self, y: Tensor, inner: Tensor, into: Tensor) -> None:
        from .kernels.low_rank import expand

        expand(inner, self.starts, self.up, self.up_biases, y, into, self.scales)

    def _unactivated(self, inner: Tensor, gradient: Tensor) -> Tensor:
        """The gradient towards what was activated, from the one towards what came of it."""
        if self.activation is None:
            return gradient
        with torch.enable_grad():
            inner = inner.detach().requires_grad_()
            return torch.autograd.grad(self.activation(inner), inner, gradient)[0]


class _Plus(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pair: LowRankCPU, y: Tensor, x: Tensor, *weights: Tensor | None
    ) -> Tensor:
        inner = pair._shrunk(x)
        into = torch.empty_like(y)
        pair._onto(y, pair._activated(inner), into)
        ctx.save_for_backward(x, inner)
        ctx.pair = pair
        return into

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, onto: Tensor) -> tuple[Tensor | None, ...]:
        from .kernels.low_rank import expand, outer, shrink

        x, inner = ctx.saved_tensors
        pair: LowRankCPU = ctx.pair
        starts, scales = pair.starts, pair.scales
        _, _, *wanted = ctx.needs_input_grad
        rank = pair.down.most
        to_x = to_down = to_up = to_down_bias = to_up_bias = None
        thinned = pair._unactivated(inner, shrink(onto, starts, pair.up, None, scales))
        if wanted[0]:
            to_x = torch.empty_like(x)
            expand(thinned, starts, pair.down, None, None, to_x)
        if wanted[1]:
            to_down = outer(thinned, x, starts)[:, :rank]
        if wanted[2]:
            to_up = outer(pair._activated(inner), onto, starts, scales)[:, :rank].transpose(1, 2)
        if wanted[3]:
            to_down_bias = _sums(thinned, starts)[:, :rank]
        if wanted[4]:
            to_up_bias = _sums(onto, starts) * torch.from_numpy(scales)[:, None]
        return None, onto, to_x, to_down, to_up, to_down_bias, to_up_bias


def _sums(x: Tensor, starts: NDArray[np.int64]) -> Tensor:
    """Sums of each run of lines, `[G, d]`, float32."""
    return torch.from_numpy(np.add.reduceat(x.float().numpy(), starts[:-1]))
