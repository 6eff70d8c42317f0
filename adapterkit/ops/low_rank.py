"""Low-rank products of many adapters over a packed batch.

The reference is a float32 loop in `tests/helpers/reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .bucketing import bucket_power_of_two
from .low_rank_cpu import LowRankCPU
from .low_rank_gpu import LowRankGPU
from .segments import Segments
from .stacked_weights import StackedWeights


@dataclass(frozen=True)
class LowRank:
    """Two low-rank layers of each of G adapters, with an activation between them.

    Attributes:
        segments: Tokens of each adapter.
        down: `[L, r, in]` of each adapter.
        up: `[L, out, r]` of each adapter.
        scales: Factor on the output of each adapter.
        down_bias: `[L, r]` of each adapter.
        up_bias: `[L, out]` of each adapter.
        activation: From `[..., r]` to `[..., r]` of each token; None is the identity.
    """

    segments: Segments
    down: StackedWeights
    up: StackedWeights
    scales: tuple[float, ...]
    down_bias: StackedWeights | None = None
    up_bias: StackedWeights | None = None
    activation: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        _ = self._on_gpu  # the launch table must be complete before it is uploaded

    @cached_property
    def _on_gpu(self) -> LowRankGPU | None:
        """The layers for the kernels of a GPU; None without a `batch_range`."""
        batch, tiles = self.segments.batch_range, self.segments.tile_pointers
        if batch is None or tiles is None:
            return None
        return LowRankGPU(
            batch.table,
            tiles,
            self.down.add_to(batch.table, self.down_bias),
            self.up.add_to(batch.table, self.up_bias),
            batch.table.add(self._factors, bucket_power_of_two(len(self.segments))),
            self.activation,
        )

    def add(self, y: Tensor, x: Tensor, layer: int) -> Tensor:
        """Adds to each segment of tokens the output of its own adapter.

        Semantics: for segment g,
        `y += scale[g] * (up[g] f(down[g] x + down_bias[g]) + up_bias[g])`.

        Args:
            y: `[t, out]`, written in place if gradients are off. The whole batch's tokens if the
                segments have a `batch_range`.
            x: `[t, in]`: segment after segment, or the whole batch's tokens; may be y itself.
            layer: Which of the L layers.

        Returns:
            The sum, `[t, out]`, in the dtype of y.
        """
        if self._on_gpu is not None:
            self._on_gpu.add_to(y, x, layer)
            return y
        if y.device.type != "cpu" or not self.segments.is_compiled:
            delta = self.delta(x, layer, y.dtype)
            return y + delta if torch.is_grad_enabled() else y.add_(delta)
        layers = self._on_cpu(layer)
        if torch.is_grad_enabled():
            down_bias, up_bias = (
                None if bias is None else bias.layer(layer)
                for bias in (self.down_bias, self.up_bias)
            )
            weights = self.down.layer(layer), self.up.layer(layer)
            return layers.add(y, x, *weights, down_bias, up_bias)
        layers.add_to(y, x)
        return y

    def _on_cpu(self, layer: int) -> LowRankCPU:
        """The weights of one layer for the compiled kernels."""
        down_biases, up_biases = (
            None if bias is None else bias.addresses[layer]
            for bias in (self.down_bias, self.up_bias)
        )
        return LowRankCPU(
            self.segments.starts,
            self.down.pointers(layer, by_rank=True),
            self.up.pointers(layer, by_rank=False),
            down_biases,
            up_biases,
            self._factors,
            self.activation,
        )

    @cached_property
    def _factors(self) -> NDArray[np.float32]:
        return np.array(self.scales, np.float32)

    def delta(self, x: Tensor, layer: int, dtype: torch.dtype) -> Tensor:
        """What `add` adds, by torch's own operators, on any device.

        Args:
            x: Tokens `[t, in]`, segment after segment.
            layer: Which of the L layers.
            dtype: Of the result.

        Returns:
            `[t, out]`.
        """
        return (self._single if len(self.segments) == 1 else self._tiled)(x, layer, dtype)

    def _single(self, x: Tensor, layer: int, dtype: torch.dtype) -> Tensor:
        """The only segment, through plain linears."""
        down, up = self.down.single[layer].to(x.dtype), self.up.single[layer].to(dtype)
        biases = (
            None if bias is None else bias.single[layer].to(kind)
            for bias, kind in ((self.down_bias, x.dtype), (self.up_bias, dtype))
        )
        inner = F.linear(x, down, next(biases))
        if self.activation is not None:
            inner = self.activation(inner)
        outer = F.linear(inner.to(dtype), up, next(biases))
        return (outer if self.scales[0] == 1.0 else outer * self.scales[0]).to(dtype)

    @cached_property
    def _scale(self) -> Tensor:
        """The factor of each tile, `[n, 1, 1]`, computed once a batch and not at every layer."""
        scales = torch.tensor(self.scales, device=self.segments.device)
        return self.segments.spread(scales)[:, None, None]

    def _tiled(self, x: Tensor, layer: int, dtype: torch.dtype) -> Tensor:
        """All segments in one batched product over tiles."""
        down = self.down.layer(layer).to(x.dtype)
        inner = torch.matmul(self.segments.tiled(x), self.segments.spread(down).transpose(1, 2))
        if self.down_bias is not None:
            inner = inner + self.segments.spread(self.down_bias.layer(layer).to(x.dtype))[:, None]
        if self.activation is not None:
            inner = self.activation(inner)
        scale = self._scale.to(dtype)
        up = self.segments.spread(self.up.layer(layer).to(dtype))
        outer = torch.matmul(inner.to(dtype) * scale, up.transpose(1, 2))
        if self.up_bias is not None:
            outer = (
                outer + scale * self.segments.spread(self.up_bias.layer(layer).to(dtype))[:, None]
            )
        return self.segments.untiled(outer).to(dtype)
