"""Two thin layers of many adapters by the kernels of a GPU, which a sheet tells where all is.

Their plain twin is the loop in `tests/helpers/reference.py`.
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
    from .kernels.grouped import Tiles, Weights

Numbers = NDArray[np.int64]


def in_one_launch(device: torch.device) -> bool:
    """Whether kernels compute the adapters of a whole batch there: on a GPU, outside training."""
    return device.type != "cpu" and torch.is_inference_mode_enabled() and _has_compiler()


@cache
def _has_compiler() -> bool:
    """Whether there is what the kernels are compiled by; torch for CUDA on Linux brings it."""
    return find_spec("triton") is not None


@dataclass(frozen=True)
class TilePointers:
    """The tiles of one group's runs, on a sheet.

    Attributes:
        first, count, owner: First token, tokens and run of each tile.
    """

    first: Slot
    count: Slot
    owner: Slot

    @classmethod
    def of(cls, sheet: LaunchTable, starts: Numbers, sizes: Numbers, tokens: int) -> TilePointers:
        """Cuts runs into tiles.

        Args:
            sheet: Where they are told.
            starts: First token of each run.
            sizes: Tokens of each.
            tokens: Of the whole batch: whatever the runs, there is room for as many tiles.
        """
        from .kernels.grouped import TILE

        tiles = -(-sizes // TILE)
        owner = np.repeat(np.arange(len(sizes)), tiles)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
        first = np.repeat(starts, tiles) + nth * TILE
        count = np.minimum(TILE, np.repeat(sizes, tiles) - nth * TILE)
        room = tokens // TILE + bucket_power_of_two(len(sizes))
        return cls(*(sheet.add(part.astype(np.int32), room) for part in (first, count, owner)))

    def view(self, sheet: LaunchTable) -> Tiles:
        """The tiles, where the sheet was sent."""
        from .kernels.grouped import Tiles

        return Tiles(sheet.view(self.first), sheet.view(self.count), sheet.view(self.owner))


@dataclass(frozen=True)
class WeightTable:
    """One thin layer of each of G adapters, on a sheet.

    Attributes:
        places: Address of each.
        biases: Address of each bias; None without.
        ranks: The rank of each.
        room: Ranks that thin lines have room for: the largest, filled up.
    """

    places: Slot
    biases: Slot | None
    ranks: Slot
    room: int

    def view(self, sheet: LaunchTable) -> Weights:
        """The layers, where the sheet was sent."""
        from .kernels.grouped import Weights

        biases = None if self.biases is None else sheet.view(self.biases)
        return Weights(sheet.view(self.places), biases, sheet.view(self.ranks), self.room)


@dataclass(frozen=True)
class LowRankGPU:
    """Two thin layers of each of G runs of tokens.

    Semantics: for run g, `y += scale[g] * (up[g] f(down[g] x + down_bias[g]) + up_bias[g])`.

    Attributes:
        sheet: Where the entries stand.
        tiles: The runs.
        down, up: The layers.
        scales: Factor of each run.
        activation: f, elementwise; none is the identity.
    """

    sheet: LaunchTable
    tiles: TilePointers
    down: WeightTable
    up: WeightTable
    scales: Slot
    activation: Callable[[Tensor], Tensor] | None

    def into(self, y: Tensor, x: Tensor, at: int) -> None:
        """Adds in place what becomes of the runs' tokens; others stay as they are.

        Args:
            y: The whole batch's tokens, `[t, out]`.
            x: Likewise, `[t, in]`; may be y itself.
            at: Which of the L layers.
        """
        from .kernels.grouped import expand, shrink

        tiles, down, up, scales = self._read
        inner = shrink(x, tiles, down, at)
        if self.activation is not None:
            inner = self.activation(inner)
        expand(inner, tiles, up, scales, at, y)

    @cached_property
    def _read(self) -> tuple[Tiles, Weights, Weights, Tensor]:
        down, up = self.down.view(self.sheet), self.up.view(self.sheet)
        return self.tiles.view(self.sheet), down, up, self.sheet.view(self.scales)
