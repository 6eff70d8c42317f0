"""Low-rank products of many adapters over a packed batch: all that LoRA and bottleneck compute.

Each has a plain twin in `tests/helpers/reference.py`, a float32 loop anyone can check by eye.
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
"""Tokens in a tile of a grouped product: fewer wastes products, more wastes padding."""


@dataclass(frozen=True)
class BatchRange:
    """Where a group's runs lie in a batch that is computed as a whole, by the kernels of a GPU.

    Attributes:
        sheet: Where the batch's numbers are gathered.
        first: First token of the first run.
        tokens: Of the batch, filled up.
    """

    sheet: LaunchTable
    first: int
    tokens: int


class Segments:
    """G contiguous runs of tokens, run g belonging to weight g.

    The grouped products cut every run into tiles of `TILE` tokens, the last one padded, so that a
    batched product over tiles costs the same however many runs there are and however skewed they
    are (the idea of Punica's segmented gather, Chen et al. 2023, on plain batched products).

    Args:
        lengths: Tokens of each.
        device: Where the products are computed.
        among: On a GPU, outside training: where the runs lie among the tokens of the whole batch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        among: BatchRange | None = None,
    ) -> None:
        self.lengths = tuple(lengths)
        self.device = device
        self.among = among

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First token of each run, then the number of tokens: G + 1 numbers."""
        return np.array((0, *accumulate(self.lengths)))

    @cached_property
    def table(self) -> TilePointers | None:
        """Their tiles for the kernels of a GPU, where they lie among a whole batch."""
        if self.among is None:
            return None
        starts = self.among.first + self.starts[:-1]
        return TilePointers.of(self.among.sheet, starts, np.diff(self.starts), self.among.tokens)

    @cached_property
    def _tiles(self) -> tuple[Tensor, Tensor, Tensor]:
        starts = self.starts.tolist()
        firsts: list[int] = []
        ends: list[int] = []
        owners: list[int] = []
        places: list[Tensor] = []
        for g, length in enumerate(self.lengths):
            places.append(torch.arange(length) + len(owners) * TILE)
            for first in range(starts[g], starts[g + 1], TILE):
                firsts.append(first)
                ends.append(starts[g + 1] - 1)
                owners.append(g)
        index = torch.tensor(firsts)[:, None] + torch.arange(TILE)
        # Padding repeats the run's last token: a valid index whose product nobody reads.
        index = torch.minimum(index, torch.tensor(ends)[:, None]).flatten()
        return (
            index.to(self.device),
            torch.tensor(owners, device=self.device),
            torch.cat(places).to(self.device),
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
    """One kind of weight of G adapters, each for L layers of the backbone; ranks may differ.

    Args:
        tensors: One `[L, ...]` for each adapter.
        dim: The dimension that is the rank, counted from the end.
    """

    def __init__(self, tensors: Sequence[Tensor], dim: int) -> None:
        self.tensors = tensors
        self._dim = dim

    @cached_property
    def _stacked(self) -> tuple[Tensor, ...]:
        if len(self.tensors) == 1:
            return self.tensors[0].unsqueeze(1).unbind(0)
        # Zeros fill a smaller rank up, and they are exact.
        filler = (0, 0) * (-self._dim - 1)
        padded = [F.pad(t, (*filler, 0, self._widest - t.shape[self._dim])) for t in self.tensors]
        return torch.stack(padded, dim=1).unbind(0)

    @cached_property
    def _widest(self) -> int:
        return max(t.shape[self._dim] for t in self.tensors)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """The rank of each adapter's weight."""
        return np.array([t.shape[self._dim] for t in self.tensors])

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """Where each adapter's weight lies, all its layers one after another, `[G]`."""
        return np.array([t.data_ptr() for t in self._plain])

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Where each adapter's weight lies at each layer, `[L, G]`, for the compiled kernels."""
        steps = np.array([t.stride(0) * t.element_size() for t in self._plain])
        found: NDArray[np.int64] = self.firsts + np.arange(len(self._plain[0]))[:, None] * steps
        return found

    def thin(self, at: int, by_rank: bool) -> WeightPointers:
        """The weights at one of the L layers, for the compiled kernels."""
        from .kernels.low_rank import WeightPointers

        return WeightPointers(self.places[at], self.ranks, self._widest, by_rank, self._plain)

    def table(self, sheet: LaunchTable, biases: StackedWeights | None) -> WeightTable:
        """The weights of all layers, and their biases, for the kernels of a GPU."""
        room = bucket_power_of_two(len(self.tensors))
        return WeightTable(
            sheet.add(self.firsts, room),
            None if biases is None else sheet.add(biases.firsts, room),
            sheet.add(self.ranks.astype(np.int32), room),
            sheet.add_constant(bucket_power_of_two(self._widest)),
        )

    @cached_property
    def _plain(self) -> list[Tensor]:
        """The tensors as kernels read them, themselves as a rule."""
        return [
            t if t.dtype is torch.float32 and t.is_contiguous() else t.float().contiguous()
            for t in self.tensors
        ]

    @cached_property
    def alone(self) -> tuple[Tensor, ...]:
        """The weights of the one adapter there is, layer by layer."""
        return self.tensors[0].unbind(0)

    def layer(self, at: int) -> Tensor:
        """The weights of all adapters at one of the L layers, `[G, ...]`."""
        return self._stacked[at]


@dataclass(frozen=True)
class LowRank:
    """Two thin layers of each of G adapters: all that LoRA and bottleneck compute.

    Attributes:
        runs: Tokens of each adapter.
        down: `[L, r, in]` each.
        up: `[L, out, r]` each.
        scales: Factor on each adapter's contribution.
        down_bias: `[L, r]` each.
        up_bias: `[L, out]` each.
        activation: Elementwise; none is the identity.
    """

    runs: Segments
    down: StackedWeights
    up: StackedWeights
    scales: tuple[float, ...]
    down_bias: StackedWeights | None = None
    up_bias: StackedWeights | None = None
    activation: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        # What stands on a batch's sheet is put there before the sheet is sent.
        _ = self._tabled

    @cached_property
    def _tabled(self) -> LowRankGPU | None:
        """The same for the kernels of a GPU, where they compute the whole batch."""
        if self.runs.among is None or self.runs.table is None:
            return None
        sheet = self.runs.among.sheet
        return LowRankGPU(
            sheet,
            self.runs.table,
            self.down.table(sheet, self.down_bias),
            self.up.table(sheet, self.up_bias),
            sheet.add(self._factors, bucket_power_of_two(len(self.runs))),
            self.activation,
        )

    def add(self, y: Tensor, x: Tensor, at: int) -> Tensor:
        """Adds to each run of tokens what its own adapter makes of it.

        Semantics: for run g, `y += scale[g] * (up[g] f(down[g] x + down_bias[g]) + up_bias[g])`.

        Args:
            y: What is added to, `[t, out]`; written in place where gradients are off. Where runs
                lie among a batch, the whole batch's tokens.
            x: Tokens `[t, in]`, run after run, or the whole batch's; may be y itself.
            at: Which of the L layers.

        Returns:
            The sum, `[t, out]`, in the dtype of y.
        """
        if self._tabled is not None:
            self._tabled.into(y, x, at)
            return y
        if y.device.type != "cpu":
            change = self.change(x, at, y.dtype)
            return y + change if torch.is_grad_enabled() else y.add_(change)
        pair = self._pair(at)
        if torch.is_grad_enabled():
            down_bias, up_bias = (
                None if bank is None else bank.layer(at) for bank in (self.down_bias, self.up_bias)
            )
            return pair.plus(y, x, self.down.layer(at), self.up.layer(at), down_bias, up_bias)
        pair.into(y, x)
        return y

    def _pair(self, at: int) -> LowRankCPU:
        """The two layers at one of the L layers of the backbone, for the compiled kernels."""
        down_biases, up_biases = (
            None if bank is None else bank.places[at] for bank in (self.down_bias, self.up_bias)
        )
        return LowRankCPU(
            self.runs.starts,
            self.down.thin(at, by_rank=True),
            self.up.thin(at, by_rank=False),
            down_biases,
            up_biases,
            self._factors,
            self.activation,
        )

    @cached_property
    def _factors(self) -> NDArray[np.float32]:
        return np.array(self.scales, np.float32)

    def change(self, x: Tensor, at: int, dtype: torch.dtype) -> Tensor:
        """What is added to each run of tokens, by torch's own operators, on any device.

        Args:
            x: Tokens `[t, in]`, run after run.
            at: Which of the L layers.
            dtype: Of what is added to.

        Returns:
            `[t, out]` in that dtype.
        """
        return (self._alone if len(self.runs) == 1 else self._tiled)(x, at, dtype)

    def _alone(self, x: Tensor, at: int, dtype: torch.dtype) -> Tensor:
        """The one run there is, through plain linears."""
        down, up = self.down.alone[at].to(x.dtype), self.up.alone[at].to(dtype)
        biases = (
            None if bank is None else bank.alone[at].to(kind)
            for bank, kind in ((self.down_bias, x.dtype), (self.up_bias, dtype))
        )
        inner = F.linear(x, down, next(biases))
        if self.activation is not None:
            inner = self.activation(inner)
        outer = F.linear(inner.to(dtype), up, next(biases))
        return (outer if self.scales[0] == 1.0 else outer * self.scales[0]).to(dtype)

    @cached_property
    def _scale(self) -> Tensor:
        """The factor of each tile, `[n, 1, 1]`, made once a batch and not at every layer."""
        return self.runs.spread(torch.tensor(self.scales, device=self.runs.device))[:, None, None]

    def _tiled(self, x: Tensor, at: int, dtype: torch.dtype) -> Tensor:
        """All runs in one batched product over tiles."""
        down = self.down.layer(at).to(x.dtype)
        inner = torch.matmul(self.runs.tiled(x), self.runs.spread(down).transpose(1, 2))
        if self.down_bias is not None:
            inner = inner + self.runs.spread(self.down_bias.layer(at).to(x.dtype))[:, None]
        if self.activation is not None:
            inner = self.activation(inner)
        scale = self._scale.to(dtype)
        up = self.runs.spread(self.up.layer(at).to(dtype))
        outer = torch.matmul(inner.to(dtype) * scale, up.transpose(1, 2))
        if self.up_bias is not None:
            outer = outer + scale * self.runs.spread(self.up_bias.layer(at).to(dtype))[:, None]
        return self.runs.untiled(outer).to(dtype)


def grouped_linear(
    x: Tensor, spans: Sequence[tuple[int, int]], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> list[Tensor]:
    """Lines of many adapters through a layer of each, outside training, by the kernels of a GPU.

    Args:
        x: Lines `[n, d]`.
        spans: First and past-the-last line of each adapter.
        weights: `[C, d]` each.
        biases: `[C]` each.

    Returns:
        `[lines, C]` float32 each.
    """
    from .kernels.grouped import shrink

    sheet = LaunchTable()
    starts, ends = np.array(spans).T
    tiles = TilePointers.of(sheet, starts, ends - starts, len(x))
    layer, shift = StackedWeights(weights, -2), StackedWeights(biases, -1)
    table = layer.table(sheet, shift)
    # Every number's place among the padded lines, so that each adapter's come out in one piece.
    n = ends - starts
    sizes = n * layer.ranks
    nth = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    line, column = np.divmod(nth, np.repeat(layer.ranks, sizes))
    place = (np.repeat(starts, sizes) + line) * table.room + column
    own = sheet.add(place)
    sheet.upload(x.device)
    said = shrink(x, tiles.view(sheet), table.view(sheet), 0)
    pieces = said.flatten().index_select(0, sheet.view(own)).split_with_sizes(sizes.tolist())
    return [piece.view(lines, -1) for piece, lines in zip(pieces, n.tolist(), strict=True)]
