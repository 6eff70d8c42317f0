"""Thin products of many adapters on a GPU, in one launch for all of them.

Each program takes a tile of tokens of one adapter and finds the adapter's weight by its address, as
the loops on a CPU do (`low_rank`); nothing is stacked, copied or filled up, so a batch of a
thousand tenants costs hardly more than one of a single tenant. The idea is that of the segmented
gather of Punica (Chen et al. 2023) and S-LoRA (Sheng et al. 2023). All that a launch depends on
besides sizes lies in tensors, so that it can be part of a CUDA graph.
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
"""Tokens of a tile: as few as a matrix unit takes at once."""

RANKS = 64
"""Most ranks that a program shrinks to."""

COLUMNS = 128
"""Numbers of a wide line that are read, or written, at once."""


@dataclass(frozen=True)
class Tiles:
    """Tiles of a batch's tokens, each of one adapter.

    Attributes:
        first: First token of each, int32 `[n]`.
        count: Tokens of each, at most `TILE`; none where a tile is not used.
        owner: The adapter of each.
    """

    first: Tensor
    count: Tensor
    owner: Tensor


@dataclass(frozen=True)
class Weights:
    """One thin layer of each of G adapters, where it lies, layer of the backbone after layer.

    Attributes:
        places: Address of each `[L, r, d]` or `[L, d, r]`, float32, int64 `[G]`.
        biases: Address of each `[L, r]` or `[L, d]`; None without.
        ranks: The rank r of each, int32 `[G]`.
        room: Ranks that thin lines have room for: the largest r, filled up
            (`bucketing.bucket_power_of_two`).
    """

    places: Tensor
    biases: Tensor | None
    ranks: Tensor
    room: int


def shrink(x: Tensor, tiles: Tiles, weights: Weights, at: int) -> Tensor:
    """Tokens through thin layers, each tile through its adapter's.

    Semantics: for a token t of adapter g, `inner[t, :r] = weight[g, at] x[t] + bias[g, at]`.

    Args:
        x: Tokens `[t, d]`.
        tiles: Whose they are; other tokens' lines are left as they come.
        weights: `[L, r, d]` each.
        at: Which of the L layers.

    Returns:
        `[t, room]` float32.
    """
    inner = torch.empty(len(x), weights.room, device=x.device)
    block = min(weights.room, RANKS)
    _shrink[len(tiles.first), weights.room // block](
        x,
        x.stride(0),
        x.shape[1],
        tiles.first,
        tiles.count,
        tiles.owner,
        weights.places,
        weights.places if weights.biases is None else weights.biases,
        weights.ranks,
        at,
        inner,
        weights.room,
        biased=weights.biases is not None,
        tile=TILE,
        block=block,
        columns=COLUMNS,
    )
    return inner


def expand(
    inner: Tensor, tiles: Tiles, weights: Weights, scales: Tensor, at: int, y: Tensor
) -> None:
    """What thin tokens become through each tile's own layer, added in place.

    Semantics: for a token t of adapter g, `y[t] += scale[g] * (weight[g, at] inner[t, :r] +
    bias[g, at])`.

    Args:
        inner: `[t, room]`.
        tiles: Whose tokens they are.
        weights: `[L, d, r]` each.
        scales: Factor of each adapter, float32 `[G]`.
        at: Which of the L layers.
        y: `[t, d]`.
    """
    block = min(weights.room, RANKS)
    _expand[len(tiles.first), triton.cdiv(y.shape[1], COLUMNS)](
        inner,
        weights.room,
        tiles.first,
        tiles.count,
        tiles.owner,
        weights.places,
        weights.places if weights.biases is None else weights.biases,
        weights.ranks,
        scales,
        at,
        y,
        y.stride(0),
        y.shape[1],
        biased=weights.biases is not None,
        tile=TILE,
        block=block,
        columns=COLUMNS,
    )


kernel: Callable[[Callable[..., None]], Any] = triton.jit(do_not_specialize=["at"])


@kernel
def _shrink(
    x: tl.tensor,
    step: tl.tensor,
    width: tl.tensor,
    firsts: tl.tensor,
    counts: tl.tensor,
    owners: tl.tensor,
    places: tl.tensor,
    biases: tl.tensor,
    ranks: tl.tensor,
    at: tl.tensor,
    inner: tl.tensor,
    room: tl.tensor,
    biased: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    number = tl.program_id(0)
    count = tl.load(counts + number)
    if count > 0:
        owner = tl.load(owners + number)
        rank = tl.load(ranks + owner)
        lines = tl.program_id(1) * block + tl.arange(0, block)
        weight = tl.load(places + owner).to(tl.pointer_type(tl.float32)) + at * rank * width
        tokens = tl.load(firsts + number) + tl.arange(0, tile)
        here = tl.arange(0, tile)[:, None] < count
        sums = tl.zeros((tile, block), tl.float32)
        for start in range(0, width, columns):
            column = start + tl.arange(0, columns)
            inside = column[None, :] < width
            wide = tl.load(x + tokens[:, None] * step + column[None, :], here & inside, 0.0)
            own = tl.load(
                weight + lines[:, None] * width + column[None, :],
                (lines[:, None] < rank) & inside,
                0.0,
            )
            sums += tl.dot(wide, tl.trans(own.to(wide.dtype)), input_precision="ieee")
        if biased:
            bias = tl.load(biases + owner).to(tl.pointer_type(tl.float32)) + at * rank
            sums += tl.load(bias + lines, lines < rank, 0.0)[None, :]
        tl.store(inner + tokens[:, None] * room + lines[None, :], sums, here)


@kernel
def _expand(
    inner: tl.tensor,
    room: tl.tensor,
    firsts: tl.tensor,
    counts: tl.tensor,
    owners: tl.tensor,
    places: tl.tensor,
    biases: tl.tensor,
    ranks: tl.tensor,
    scales: tl.tensor,
    at: tl.tensor,
    y: tl.tensor,
    step: tl.tensor,
    width: tl.tensor,
    biased: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    number = tl.program_id(0)
    count = tl.load(counts + number)
    if count > 0:
        owner = tl.load(owners + number)
        rank = tl.load(ranks + owner)
        column = tl.program_id(1) * columns + tl.arange(0, columns)
        weight = tl.load(places + owner).to(tl.pointer_type(tl.float32)) + at * rank * width
        tokens = tl.load(firsts + number) + tl.arange(0, tile)
        here = tl.arange(0, tile)[:, None] < count
        inside = column[None, :] < width
        into = y + tokens[:, None] * step + column[None, :]
        before = tl.load(into, here & inside, 0.0)
        sums = tl.zeros((tile, columns), tl.float32)
        for start in range(0, rank, block):
            line = start + tl.arange(0, block)
            thin = tl.load(
                inner + tokens[:, None] * room + line[None, :],
                here & (line[None, :] < rank),
                0.0,
            )
            own = tl.load(
                weight + column[:, None] * rank + line[None, :],
                (column[:, None] < width) & (line[None, :] < rank),
                0.0,
            )
            sums += tl.dot(
                thin.to(before.dtype), tl.trans(own.to(before.dtype)), input_precision="ieee"
            )
        if biased:
            bias = tl.load(biases + owner).to(tl.pointer_type(tl.float32)) + at * width
            sums += tl.load(bias + column, column < width, 0.0)[None, :]
        after = before.to(tl.float32) + tl.load(scales + owner) * sums
        tl.store(into, after.to(before.dtype), here & inside)
