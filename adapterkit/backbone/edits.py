"""All that one batch does to the backbone, as a value built once and passed into the call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..ops.attention import uses_flash_attention
from ..ops.attention_plan import AttentionPlan
from ..ops.launch_table import LaunchTable
from ..ops.prefix_tokens import Prefixes

Delta = Callable[[Tensor, Tensor], Tensor]
"""What an edit does at a site: `(y, x) -> y + ...`, in place where gradients are off.

y `[t, out]` is what is added to, x `[t, in]` what is read there: the group's tokens, or a whole
batch's where the group's runs know where they lie among it (`low_rank.BatchRange`).
"""


@dataclass(frozen=True)
class Block:
    """One contiguous block of tokens and what is done to it."""

    start: int
    end: int
    delta: Delta


@dataclass(frozen=True)
class LayerEdits:
    """What a batch does to one layer.

    Attributes:
        blocks: Site to blocks, floor after floor of the adapters that stand on others; those of
            one floor in order of tokens and disjoint.
        plan: Who attends to whom.
        at: Which layer it is.
        prefixes: The prefix tokens of all layers; None without.
    """

    blocks: dict[str, list[Block]]
    plan: AttentionPlan
    at: int
    prefixes: Prefixes | None

    def attended(self, key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Keys and values as the plan numbers them, from the batch's tokens', `[R, h]` each.

        Returns:
            `[R + P, h]` each, the prefix tokens' after the tokens'; for flash attention over a
            batch as a whole those of each sequence in turn.
        """
        if self.prefixes is None:
            return key, value
        flash = uses_flash_attention(key.device, key.dtype, key.shape[-1] // heads)
        if flash and self.plan.table is not None:
            return self.plan.ragged.gathered(key, value, self.at)
        keys, values = self.prefixes.layer(self.at)
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
            y: What is added to, `[1, T, out]`.
            x: What the edits read, `[1, T, in]`; y, as the floors below left it, where left out.
            read: Applied to a block of that before an edit reads it.

        Returns:
            `[1, T, out]`; y itself where the batch does nothing at this site or gradients are off.
        """
        blocks = self.blocks.get(site)
        if not blocks:
            return y
        if torch.is_grad_enabled():
            for floor in _floors(blocks):
                y = _added(floor, y, x, read)
            return y
        for block in blocks:
            own = slice(block.start, block.end)
            seen = (y if x is None else x)[0, own]
            block.delta(y[0, own], seen if read is None else read(seen))
        return y


def _floors(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """The blocks of each floor: one begins where a block lies before the one ahead of it."""
    floor: list[Block] = []
    for block in blocks:
        if floor and block.start < floor[-1].end:
            yield floor
            floor = []
        floor.append(block)
    yield floor


def _added(
    blocks: Sequence[Block],
    y: Tensor,
    x: Tensor | None,
    read: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """One floor's deltas where gradients flow: y is put together anew, never written into.

    It is cut with one split and not with slices, each of which would go back through zeros of the
    size of y.
    """
    first = blocks[0]
    if first.start == 0 and first.end == y.shape[1]:
        whole = (y if x is None else x).squeeze(0)
        return first.delta(y.squeeze(0), whole if read is None else read(whole))[None]
    ends = [0, *(end for block in blocks for end in (block.start, block.end)), y.shape[1]]
    sizes = [after - before for before, after in pairwise(ends)]
    pieces = list(y.squeeze(0).split(sizes))
    seen = pieces if x is None else x.squeeze(0).split(sizes)
    for place, block in zip(range(1, len(sizes), 2), blocks, strict=False):
        one = seen[place]
        pieces[place] = block.delta(pieces[place], one if read is None else read(one))
    return torch.cat(pieces)[None]


@dataclass(frozen=True)
class GraphInputs:
    """Edits whose numbers stand on a sheet, so that two of one kind differ in nothing but numbers.

    Attributes:
        table: The sheet.
        key: What is done where, and the sizes of all that is read: a CUDA graph of a forward with
            one is right for every other of this kind.
    """

    table: LaunchTable
    key: Hashable


@dataclass(frozen=True)
class Edits:
    """All that one batch does to the backbone.

    Attributes:
        layers: One entry for each layer.
        untouched: For each packed sequence the layers, from the first, that nothing is done to.
        filled: Tokens that layers compute: the batch's, filled up to one of few sizes.
        whole: On a GPU, outside training: what makes it one value of few kinds.
    """

    layers: tuple[LayerEdits, ...]
    untouched: tuple[int, ...]
    filled: int
    whole: GraphInputs | None = None
