"""The residual sum of a layer as a module, so that hooks can act on it."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualSum(nn.Module):
    """Adds the output of a block to its residual."""

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        """`inner + residual`, `[..., h]` each."""
        return inner + residual
