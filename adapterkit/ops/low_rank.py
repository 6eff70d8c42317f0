"""Low-rank products of many adapters over a packed batch.

The reference is a float32 loop in `tests/helpers/reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .bucketing import bucket_power_of_two
from .launch_table import LaunchTable
from .low_rank_cpu import LowRankCPU
from .low_rank_gpu import LowRankGPU, TilePointers, WeightTable

if TYPE_CHECKING:
    from .kernels.low_rank import WeightPointers

TILE = 16
"""Tokens in a tile of a grouped product: more products if it is smaller, more padding if larger."""


@dataclass(frozen=True)
class BatchRange:
    """The place of a group's segments in a batch that the kernels of a GPU compute at once.

    Attributes:
        table: The launch table of the batch.
        first: First token of the first segment.
        tokens: Number of tokens of the batch, padding included.
    """

    table: LaunchTable
    first: int
    tokens: int


class Segments:
    """G contiguous segments of tokens; segment g belongs to weight g.

    The grouped products cut every segment into tiles of `TILE` tokens, the last one padded. The
    cost of a batched product over tiles does not depend on the number and sizes of the segments
    (the idea of Punica's segmented gather, Chen et al. 2023, with plain batched products).

    Args:
        lengths: Number of tokens of each segment.
        device: Where the products are computed.
        batch_range: Place of the segments in the whole batch, if kernels compute it at once.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        batch_range: BatchRange | None = None,
    ) -> None:
        self.lengths = tuple(lengths)
        self.device = device
        self.batch_range = batch_range

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First token of each segment, then the number of tokens: G + 1 numbers."""
        return np.array((0, *accumulate(self.lengths)))

    @cached_property
    def tile_pointers(self) -> TilePointers | None:
        """The tiles in the launch table; None without a `batch_range`."""
        batch = self.batch_range
        if batch is None:
            return None
        starts = batch.first + self.starts[:-1]
        return TilePointers.of(batch.table, starts, np.diff(self.starts), batch.tokens)

    @cached_property
    def _tiles(self) -> tuple[Tensor, Tensor, Tensor]:
        """Token of each line of the tiles, segment of each tile, and line of each token."""
        starts = self.starts.tolist()
        firsts: list[int] = []
        ends: list[int] = []
        owners: list[int] = []
        lines: list[Tensor] = []
        for g, length in enumerate(self.lengths):
            lines.append(torch.arange(length) + len(owners) * TILE)
            for first in range(starts[g], starts[g + 1], TILE):
                firsts.append(first)
                ends.append(starts[g + 1] - 1)
                owners.append(g)
        index = torch.tensor(firsts)[:, None] + torch.arange(TILE)
        # Padding repeats the segment's last token: a valid index whose product nobody reads.
        index = torch.minimum(index, torch.tensor(ends)[:, None]).flatten()
        return (
            index.to(self.device),
            torch.tensor(owners, device=self.device),
            torch.cat(lines).to(self.device),
        )

    def tiled(self, x: Tensor) -> Tensor:
        """Tokens `[t, d]` to tiles `[n, TILE, d]`."""
        return x.index_select(0, self._tiles[0]).view(-1, TILE, x.shape[-1])

    def untiled(self, tiles: Tensor) -> Tensor:
        """Tiles `[n, TILE, d]` back to tokens `[t, d]`."""
        return tiles.flatten(0, 1).index_select(0, self._tiles[2])

    def spread(self, weights: Tensor) -> Tensor:
        """Weights `[G, ...]` to one for each tile, `[n, ...]`."""
        return weights.index_select(0, self._tiles[1])


class StackedWeights:
    """One weight of each of G adapters, for L layers of the backbone; ranks may differ.

    Args:
        tensors: `[L, ...]` of each adapter.
        dim: The dimension of the rank, counted from the end.
    """

    def __init__(self, tensors: Sequence[Tensor], dim: int) -> None:
        self.tensors = tensors
        self._dim = dim

    @cached_property
    def _stacked(self) -> tuple[Tensor, ...]:
        if len(self.tensors) == 1:
            return self.tensors[0].unsqueeze(1).unbind(0)
        # Smaller ranks are padded with zeros, which changes no product.
        others = (0, 0) * (-self._dim - 1)
        padded = [F.pad(t, (*others, 0, self._max_rank - t.shape[self._dim])) for t in self.tensors]
        return torch.stack(padded, dim=1).unbind(0)

    @cached_property
    def _max_rank(self) -> int:
        return max(t.shape[self._dim] for t in self.tensors)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Rank of each adapter's weight, `[G]`."""
        return np.array([t.shape[self._dim] for t in self.tensors])

    @cached_property
    def base_addresses(self) -> NDArray[np.int64]:
        """Address of each adapter's weights, layer after layer, `[G]`."""
        return np.array([t.data_ptr() for t in self._contiguous])

    @cached_property
    def addresses(self) -> NDArray[np.int64]:
        """Address of each adapter's weight of each layer, `[L, G]`."""
        steps = np.array([t.stride(0) * t.element_size() for t in self._contiguous])
        layers = np.arange(len(self._contiguous[0]))[:, None]
        addresses: NDArray[np.int64] = self.base_addresses + layers * steps
        return addresses

    def pointers(self, layer: int, by_rank: bool) -> WeightPointers:
        """The weights of one layer for the compiled kernels.

        Args:
            layer: Which of the L layers.
            by_rank: Whether the weights are `[r, d]`, and not `[d, r]`.
        """
        from .kernels.low_rank import WeightPointers

        addresses = self.addresses[layer]
        return WeightPointers(addresses, self.ranks, self._max_rank, by_rank, self._contiguous)

    def add_to(self, table: LaunchTable, biases: StackedWeights | None) -> WeightTable:
        """Adds the weights of all layers, and their biases, to a launch table."""
        capacity = bucket_power_of_two(len(self.tensors))
        return WeightTable(
            table.add(self.base_addresses, capacity),
            None if biases is None else table.add(biases.base_addresses, capacity),
            table.add(self.ranks.astype(np.int32), capacity),
            table.add_constant(bucket_power_of_two(self._max_rank)),
        )

    @cached_property
    def _contiguous(self) -> list[Tensor]:
        """The tensors in contiguous float32; no copies as a rule."""
        return [
            t if t.dtype is torch.float32 and t.is_contiguous() else t.float().contiguous()
            for t in self.tensors
        ]

    @cached_property
    def single(self) -> tuple[Tensor, ...]:
        """The weights of the only adapter, layer by layer."""
        return self.tensors[0].unbind(0)

    def layer(self, index: int) -> Tensor:
        """The weights of all adapters for one of the L layers, `[G, ...]`."""
        return self._stacked[index]


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
        activation: Elementwise; None is the identity.
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
        if y.device.type != "cpu":
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


def grouped_linear(
    x: Tensor, spans: Sequence[tuple[int, int]], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> list[Tensor]:
    """A linear layer of each of many adapters over its own rows, outside training, on a GPU.

    Args:
        x: `[n, d]`.
        spans: First and past-the-last row of each adapter.
        weights: `[C, d]` of each adapter; C may differ.
        biases: `[C]` of each adapter.

    Returns:
        `[rows, C]` float32 of each adapter.
    """
    from .kernels.grouped import shrink

    table = LaunchTable()
    starts, ends = np.array(spans).T
    tiles = TilePointers.of(table, starts, ends - starts, len(x))
    linear, bias = StackedWeights(weights, -2), StackedWeights(biases, -1)
    layers = linear.add_to(table, bias)
    # The index of each output in the padded rows, so that one gather returns them contiguous.
    n = ends - starts
    sizes = n * linear.ranks
    number = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    row, column = np.divmod(number, np.repeat(linear.ranks, sizes))
    index = table.add((np.repeat(starts, sizes) + row) * layers.padded_rank + column)
    table.upload(x.device)
    outputs = shrink(x, tiles.view(table), layers.view(table), 0)
    pieces = outputs.flatten().index_select(0, table.view(index)).split_with_sizes(sizes.tolist())
    return [piece.view(rows, -1) for piece, rows in zip(pieces, n.tolist(), strict=True)]
