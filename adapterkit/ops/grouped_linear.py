"""Linear layers of many adapters, each over its own rows, in one product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .launch_table import LaunchTable
from .low_rank_gpu import TilePointers
from .stacked_weights import StackedWeights


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
    from .gpu_kernels.grouped import shrink

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
