"""Segments: which tokens of a packed batch belong to which adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .launch_table import LaunchTable
from .low_rank_gpu import TilePointers

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

    is_compiled: ClassVar[bool] = True
    """Whether compiled loops can compute them on a CPU."""

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

    def per_token(self, values: Tensor) -> Tensor:
        """Repeats the row of each segment for each of its tokens.

        Args:
            values: `[G, ...]`.

        Returns:
            `[t, ...]`.
        """
        return values.repeat_interleave(self._counts, dim=0, output_size=sum(self.lengths))

    @cached_property
    def _counts(self) -> Tensor:
        """Number of tokens of each segment, `[G]`, where they are computed."""
        return torch.tensor(self.lengths, device=self.device)

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
