"""What a batch's adapters do to the backbone: a value built once and passed into the call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..ops.attention import packed_attention, uses_flash_attention
from ..ops.attention_plan import AttentionPlan
from ..ops.disentangled import PositionTable, disentangled_attention
from ..ops.launch_table import LaunchTable
from ..ops.position_plan import PositionPlan
from ..ops.prefix_tokens import Prefixes
from ..ops.relative_bias import RelativeBias
from .recomputation import Recomputation

Delta = Callable[[Tensor, Tensor], Tensor]
"""What an edit does at a site: from y and x to the new y, `[t, out]`.

y, `[t, out]`, is the output at the site so far; x, `[t, in]`, is the input. Both are the tokens of
one group of adapters, or of the whole batch if the group knows its range in the batch
(`segments.BatchRange`). If gradients are off, the edit may change y in place and return it.
"""


@dataclass(frozen=True)
class Block:
    """One contiguous block of tokens, and the edit that applies to it."""

    start: int
    end: int
    delta: Delta


@dataclass(frozen=True)
class LayerEdits:
    """What a batch does to one layer.

    Attributes:
        blocks: Site to blocks. Adapters that others are stacked on come first; the blocks of one
            level of the stacks are disjoint and in the order of their tokens.
        plan: Which tokens attend to which.
        index: Number of the layer, from 0.
        prefixes: The prefix tokens of all layers; None if the batch has none.
    """

    blocks: dict[str, list[Block]]
    plan: AttentionPlan
    index: int
    prefixes: Prefixes | None

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        scaling: float,
        window: int | None = None,
        bias: RelativeBias | None = None,
    ) -> Tensor:
        """Attention within each sequence and its prefix.

        Args:
            query, key, value: Of the batch's own tokens, `[R, h]` each; keys and values are
                narrower if several heads of queries share each of their heads.
            heads: Number of heads of queries.
            scaling: Factor on the scores.
            window: Greatest distance of a token that is attended to; None for no limit. All tokens
                attend to all of their prefix.
            bias: What is added to scores by distance, if anything is.

        Returns:
            `[R, h]`.
        """
        width = query.shape[-1] // heads
        key, value = self.with_prefixes(key, value, width, flash=bias is None)
        shared = query.shape[-1] // key.shape[-1]
        if shared > 1:
            key, value = (repeat_heads(x, width, shared) for x in (key, value))
        return packed_attention(query, key, value, self.plan, heads, scaling, window, bias)

    def positions(self, buckets: Tensor) -> PositionPlan:
        """Which buckets of distances the sequences need; computed once a batch.

        Args:
            buckets: Bucket of each distance, int64 `[2 N - 1]`.
        """
        plans = self.plan.derived
        if "positions" not in plans:
            plans["positions"] = PositionPlan(self.plan, buckets)
        found: PositionPlan = plans["positions"]
        return found

    def own_buckets(self, buckets: Tensor) -> Tensor:
        """The bucket of each row of a table of positions in which every sequence has rows.

        Args:
            buckets: Bucket of each distance, int64 `[2 N - 1]`.

        Returns:
            int64 `[1, R]` or `[2, R]`; t of either half belongs to token t.
        """
        return self.positions(buckets).own_buckets.view(-1, self.plan.padded_tokens)

    def attend_by_position(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        buckets: Tensor,
        tables: tuple[PositionTable | None, PositionTable | None],
        heads: int,
        scaling: float,
    ) -> Tensor:
        """Attention within each sequence and its prefix, with scores of content and distance.

        Args:
            query, key, value, heads, scaling: As of `attend`.
            buckets: Bucket of each distance, int64 `[2 N - 1]`.
            tables: Keys and queries of positions (`ops.disentangled`).

        Returns:
            `[R, h]`.
        """
        key, value = self.with_prefixes(key, value, query.shape[-1] // heads, flash=False)
        plan = self.positions(buckets)
        return disentangled_attention(query, key, value, plan, tables, heads, scaling)

    def with_prefixes(
        self, key: Tensor, value: Tensor, width: int, *, flash: bool
    ) -> tuple[Tensor, Tensor]:
        """Keys and values in the order of the plan, prefix tokens included.

        Args:
            key, value: Of the batch's own tokens, `[R, h]` each.
            width: Of a head.
            flash: Whether flash attention may compute the batch: nothing is added to scores.

        Returns:
            `[R + P, h]` each: the batch's tokens, then the P prefix tokens. For flash attention
            over a batch that is computed as one value, sequence after sequence, each after its
            prefix.
        """
        if self.prefixes is None:
            return key, value
        flash = flash and uses_flash_attention(key.device, key.dtype, width)
        if flash and self.plan.ragged_table is not None:
            return self.plan.ragged.gather_keys(key, value, self.index)
        keys, values = self.prefixes.layer(self.index)
        return torch.cat([key, keys.to(key.dtype)]), torch.cat([value, values.to(value.dtype)])

    def apply(
        self,
        site: str,
        y: Tensor,
        x: Tensor | None = None,
        read: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Adds the site's deltas.

        Args:
            site: Canonical name.
            y: The edits add to it, `[1, T, out]`.
            x: The edits read it, `[1, T, in]`. If omitted, they read y, each level of the stacks
                after the levels below have added to it.
            read: Applied to a block of x before an edit reads it.

        Returns:
            `[1, T, out]`; y itself if the batch has no edit at this site or gradients are off.
        """
        blocks = self.blocks.get(site)
        if not blocks:
            return y
        if torch.is_grad_enabled():
            for level in _levels(blocks):
                y = _add_level(level, y, x, read)
            return y
        for block in blocks:
            rows = slice(block.start, block.end)
            before, inputs = y[0, rows], (y if x is None else x)[0, rows]
            after = block.delta(before, inputs if read is None else read(inputs))
            if after is not before:
                before.copy_(after)
        return y


def repeat_heads(x: Tensor, width: int, n: int) -> Tensor:
    """Keys or values with each head n times in a row, `[t, heads * d]` to `[t, heads * n * d]`.

    Args:
        x: The keys or values.
        width: Of a head, d.
        n: How many heads of queries share a head.
    """
    heads = x.view(x.shape[0], -1, 1, width)
    return heads.expand(-1, -1, n, -1).reshape(x.shape[0], -1)


def _levels(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """The blocks of each level: a new level begins with a block that starts before the last end."""
    level: list[Block] = []
    for block in blocks:
        if level and block.start < level[-1].end:
            yield level
            level = []
        level.append(block)
    yield level


def _add_level(
    blocks: Sequence[Block],
    y: Tensor,
    x: Tensor | None,
    read: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Adds the deltas of one level while gradients are on, so y is not written in place.

    y is cut by one split, not by slices: the gradient of each slice is a tensor of zeros as large
    as y.
    """
    first = blocks[0]
    if first.start == 0 and first.end == y.shape[1]:
        rows = (y if x is None else x).squeeze(0)
        return first.delta(y.squeeze(0), rows if read is None else read(rows))[None]
    ends = [0, *(end for block in blocks for end in (block.start, block.end)), y.shape[1]]
    sizes = [end - start for start, end in pairwise(ends)]
    outputs = list(y.squeeze(0).split(sizes))
    inputs = outputs if x is None else x.squeeze(0).split(sizes)
    for index, block in zip(range(1, len(sizes), 2), blocks, strict=False):
        own = inputs[index]
        outputs[index] = block.delta(outputs[index], own if read is None else read(own))
    return torch.cat(outputs)[None]


@dataclass(frozen=True)
class GraphInputs:
    """Everything by which the edits of two batches with the same CUDA graph may differ.

    Attributes:
        table: The numbers and addresses that kernels read.
        key: Which edits act where, and the size of everything they read. A graph captured with one
            batch is right for every batch with the same key.
    """

    table: LaunchTable
    key: Hashable


@dataclass(frozen=True)
class Edits:
    """Everything that the adapters of one batch do to the backbone.

    Attributes:
        layers: The edits of each layer.
        untouched: For each packed sequence, how many layers from the first have no edit for it.
        padded_tokens: Number of tokens that layers compute: the batch's, rounded up to one of few
            sizes.
        graph_inputs: Given on a GPU outside training, if the batch can be computed by a CUDA graph.
        recomputation: Given in training, if the activations of layers are not to be kept.
    """

    layers: tuple[LayerEdits, ...]
    untouched: tuple[int, ...]
    padded_tokens: int
    graph_inputs: GraphInputs | None = None
    recomputation: Recomputation | None = None
