"""Low-rank products of many adapters on a GPU, in one launch for all of them.

Each program takes a tile of tokens of one adapter and reads the adapter's weight from its address,
as the loops on a CPU do (`low_rank`). No weight is stacked, copied or padded, so a batch of a
thousand adapters costs hardly more than one of a single adapter. The idea is the segmented gather
of Punica (Chen et al. 2023) and S-LoRA (Sheng et al. 2023). All arguments of a launch but sizes are
in tensors, so that it can be part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16
"""Tokens of a tile, the fewest that a matrix unit multiplies layer once."""

RANKS = 64
"""The most ranks that one program computes."""

COLUMNS = 128
"""Columns that are read, or written, layer once."""


@dataclass(frozen=True)
class Tiles:
    """Tiles of a batch's tokens, each of one adapter.

    Attributes:
        first: First token of each tile, int32 `[n]`.
        count: Number of tokens of each, layer most `TILE`; 0 for an unused tile.
        owner: Adapter of each.
    """

    first: Tensor
    count: Tensor
    owner: Tensor


@dataclass(frozen=True)
class GroupedWeights:
    """One low-rank layer of each of G adapters, for all L layers of the backbone.

    Attributes:
        addresses: Address of each `[L, r, d]` or `[L, d, r]`, float32, int64 `[G]`.
        biases: Address of each `[L, r]` or `[L, d]`; None without biases.
        ranks: Rank r of each, int32 `[G]`.
        padded_rank: The largest r, rounded up by `bucketing.bucket_power_of_two`.
    """

    addresses: Tensor
    biases: Tensor | None
    ranks: Tensor
    padded_rank: int


def shrink(x: Tensor, tiles: Tiles, weights: GroupedWeights, layer: int) -> Tensor:
    """Low-rank vectors of tokens, each tile by the layer of its adapter.

    Semantics: for a token t of adapter g, `inner[t, :r] = weight[g, layer] x[t] + bias[g, layer]`.

    Args:
        x: Tokens `[t, d]`.
        tiles: Tiles of the tokens; the vectors of tokens in no tile stay undefined.
        weights: `[L, r, d]` of each adapter.
        layer: Which of the L layers.

    Returns:
        `[t, padded_rank]` float32.
    """
    inner = torch.empty(len(x), weights.padded_rank, device=x.device)
    block = min(weights.padded_rank, RANKS)
    _shrink[len(tiles.first), weights.padded_rank // block](
        x,
        x.stride(0),
        x.shape[1],
        tiles.first,
        tiles.count,
        tiles.owner,
        weights.addresses,
        weights.addresses if weights.biases is None else weights.biases,
        weights.ranks,
        layer,
        inner,
        weights.padded_rank,
        has_bias=weights.biases is not None,
        tile=TILE,
        block=block,
        columns=COLUMNS,
    )
    return inner


def expand(
    inner: Tensor, tiles: Tiles, weights: GroupedWeights, scales: Tensor, layer: int, y: Tensor
) -> None:
    """Adds in place the products of low-rank vectors, each tile by the layer of its adapter.

    Semantics: for a token t of adapter g, `y[t] += scale[g] * (weight[g, layer] inner[t, :r] +
    bias[g, layer])`.

    Args:
        inner: `[t, padded_rank]`.
        tiles: Tiles of the tokens.
        weights: `[L, d, r]` of each adapter.
        scales: Factor of each adapter, float32 `[G]`.
        layer: Which of the L layers.
        y: `[t, d]`.
    """
    block = min(weights.padded_rank, RANKS)
    _expand[len(tiles.first), triton.cdiv(y.shape[1], COLUMNS)](
        inner,
        weights.padded_rank,
        tiles.first,
        tiles.count,
        tiles.owner,
        weights.addresses,
        weights.addresses if weights.biases is None else weights.biases,
        weights.ranks,
        scales,
        layer,
        y,
        y.stride(0),
        y.shape[1],
        has_bias=weights.biases is not None,
        tile=TILE,
        block=block,
        columns=COLUMNS,
    )


kernel: Callable[[Callable[..., None]], Any] = triton.jit(do_not_specialize=["layer"])


@kernel
def _shrink(
    x: tl.tensor,
    step: tl.tensor,
    width: tl.tensor,
    firsts: tl.tensor,
    counts: tl.tensor,
    owners: tl.tensor,
    addresses: tl.tensor,
    biases: tl.tensor,
    ranks: tl.tensor,
    layer: tl.tensor,
    inner: tl.tensor,
    padded_rank: tl.tensor,
    has_bias: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    count = tl.load(counts + program)
    if count > 0:
        owner = tl.load(owners + program)
        rank = tl.load(ranks + owner)
        rank_index = tl.program_id(1) * block + tl.arange(0, block)
        weight = tl.load(addresses + owner).to(tl.pointer_type(tl.float32)) + layer * rank * width
        tokens = tl.load(firsts + program) + tl.arange(0, tile)
        is_token = tl.arange(0, tile)[:, None] < count
        sums = tl.zeros((tile, block), tl.float32)
        for start in range(0, width, columns):
            column = start + tl.arange(0, columns)
            is_column = column[None, :] < width
            values = tl.load(
                x + tokens[:, None] * step + column[None, :], is_token & is_column, 0.0
            )
            matrix = tl.load(
                weight + rank_index[:, None] * width + column[None, :],
                (rank_index[:, None] < rank) & is_column,
                0.0,
            )
            sums += tl.dot(values, tl.trans(matrix.to(values.dtype)), input_precision="ieee")
        if has_bias:
            bias = tl.load(biases + owner).to(tl.pointer_type(tl.float32)) + layer * rank
            sums += tl.load(bias + rank_index, rank_index < rank, 0.0)[None, :]
        tl.store(inner + tokens[:, None] * padded_rank + rank_index[None, :], sums, is_token)


@kernel
def _expand(
    inner: tl.tensor,
    padded_rank: tl.tensor,
    firsts: tl.tensor,
    counts: tl.tensor,
    owners: tl.tensor,
    addresses: tl.tensor,
    biases: tl.tensor,
    ranks: tl.tensor,
    scales: tl.tensor,
    layer: tl.tensor,
    y: tl.tensor,
    step: tl.tensor,
    width: tl.tensor,
    has_bias: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    count = tl.load(counts + program)
    if count > 0:
        owner = tl.load(owners + program)
        rank = tl.load(ranks + owner)
        column = tl.program_id(1) * columns + tl.arange(0, columns)
        weight = tl.load(addresses + owner).to(tl.pointer_type(tl.float32)) + layer * rank * width
        tokens = tl.load(firsts + program) + tl.arange(0, tile)
        is_token = tl.arange(0, tile)[:, None] < count
        is_column = column[None, :] < width
        output = y + tokens[:, None] * step + column[None, :]
        before = tl.load(output, is_token & is_column, 0.0)
        sums = tl.zeros((tile, columns), tl.float32)
        for start in range(0, rank, block):
            rank_index = start + tl.arange(0, block)
            vectors = tl.load(
                inner + tokens[:, None] * padded_rank + rank_index[None, :],
                is_token & (rank_index[None, :] < rank),
                0.0,
            )
            matrix = tl.load(
                weight + column[:, None] * rank + rank_index[None, :],
                (column[:, None] < width) & (rank_index[None, :] < rank),
                0.0,
            )
            sums += tl.dot(
                vectors.to(before.dtype), tl.trans(matrix.to(before.dtype)), input_precision="ieee"
            )
        if has_bias:
            bias = tl.load(biases + owner).to(tl.pointer_type(tl.float32)) + layer * width
            sums += tl.load(bias + column, column < width, 0.0)[None, :]
        after = before.to(tl.float32) + tl.load(scales + owner) * sums
        tl.store(output, after.to(before.dtype), is_token & is_column)
