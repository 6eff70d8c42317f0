"""The two low-rank layers of many adapters by the kernels of a GPU, whose arguments are in a table.

The reference is the loop in `tests/helpers/reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bucketing import bucket_power_of_two
from .launch_table import LaunchTable, Slot

if TYPE_CHECKING:
    from .gpu_kernels.grouped import GroupedWeights, Tiles


def in_one_launch(device: torch.device) -> bool:
    """Whether kernels compute the adapters of a whole batch: on a GPU, outside training."""
    return device.type != "cpu" and torch.is_inference_mode_enabled() and _has_triton()


@cache
def _has_triton() -> bool:
    """Whether Triton, which compiles the kernels, is installed; torch for CUDA on Linux has it."""
    return find_spec("triton") is not None


@dataclass(frozen=True)
class TilePointers:
    """The tiles of one group's segments, in a launch table.

    Attributes:
        first, count, owner: First token, number of tokens and segment of each tile.
    """

    first: Slot
    count: Slot
    owner: Slot

    @classmethod
    def of(
        cls, table: LaunchTable, starts: NDArray[np.int64], sizes: NDArray[np.int64], tokens: int
    ) -> TilePointers:
        """Cuts segments into tiles.

        Args:
            table: The launch table that is written.
            starts: First token of each segment.
            sizes: Number of tokens of each segment.
            tokens: Of the whole batch; it alone decides for how many tiles space is reserved.
        """
        from .gpu_kernels.grouped import TILE

        tiles = -(-sizes // TILE)
        owner = np.repeat(np.arange(len(sizes)), tiles)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
        first = np.repeat(starts, tiles) + number * TILE
        count = np.minimum(TILE, np.repeat(sizes, tiles) - number * TILE)
        capacity = tokens // TILE + bucket_power_of_two(len(sizes))
        return cls(*(table.add(part.astype(np.int32), capacity) for part in (first, count, owner)))

    def view(self, table: LaunchTable) -> Tiles:
        """The tiles on the device, after the table was uploaded."""
        from .gpu_kernels.grouped import Tiles

        return Tiles(table.view(self.first), table.view(self.count), table.view(self.owner))


@dataclass(frozen=True)
class WeightTable:
    """One low-rank layer of each of G adapters, in a launch table.

    Attributes:
        addresses: Address of each weight.
        biases: Address of each bias; None without biases.
        ranks: Rank of each weight.
        padded_rank: The largest rank, rounded up.
    """

    addresses: Slot
    biases: Slot | None
    ranks: Slot
    padded_rank: int

    def view(self, table: LaunchTable) -> GroupedWeights:
        """The layers on the device, after the table was uploaded."""
        from .gpu_kernels.grouped import GroupedWeights

        biases = None if self.biases is None else table.view(self.biases)
        addresses, ranks = table.view(self.addresses), table.view(self.ranks)
        return GroupedWeights(addresses, biases, ranks, self.padded_rank)


@dataclass(frozen=True)
class LowRankGPU:
    """The two low-rank layers of each of G segments of tokens.

    Semantics: for segment g, `y += scale[g] * (up[g] f(down[g] x + down_bias[g]) + up_bias[g])`.

    Attributes:
        table: The launch table.
        tiles: Tiles of the segments.
        down, up: The layers.
        scales: Factor of each segment.
        activation: f, from `[..., r]` to `[..., r]` of each token; None is the identity.
    """

    table: LaunchTable
    tiles: TilePointers
    down: WeightTable
    up: WeightTable
    scales: Slot
    activation: Callable[[Tensor], Tensor] | None

    def add_to(self, y: Tensor, x: Tensor, layer: int) -> None:
        """Adds in place to the tokens of the segments; other tokens stay as they are.

        Args:
            y: The whole batch's tokens, `[t, out]`.
            x: The whole batch's tokens, `[t, in]`; may be y itself.
            layer: Which of the L layers.
        """
        from .gpu_kernels.grouped import expand, shrink

        tiles, down, up, scales = self._on_device
        inner = shrink(x, tiles, down, layer)
        if self.activation is not None:
            inner = self.activation(inner)
        expand(inner, tiles, up, scales, layer, y)

    @cached_property
    def _on_device(self) -> tuple[Tiles, GroupedWeights, GroupedWeights, Tensor]:
        down, up = self.down.view(self.table), self.up.view(self.table)
        return self.tiles.view(self.table), down, up, self.table.view(self.scales)
