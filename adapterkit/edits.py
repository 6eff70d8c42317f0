"""All that one batch does to the backbone, as a value built once and passed into the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from .adapter import Adapter
from .attention import AttentionPlan
from .batch import Packed
from .geometry import Geometry
from .method import Delta, Share
from .ops import Noise, Runs


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
        blocks: Site to blocks, in order of tokens and disjoint.
        plan: Who attends to whom.
        keys, values: The prefix tokens' keys and values, `[P, h]`; None without prefixes.
    """

    blocks: dict[str, list[Block]]
    plan: AttentionPlan
    keys: Tensor | None = None
    values: Tensor | None = None

    def apply(
        self, site: str, y: Tensor, x: Tensor, read: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Adds the site's deltas.

        Args:
            site: Canonical name.
            y: What is added to, `[1, T, out]`.
            x: What the edits read, `[1, T, in]`.
            read: Applied to a block of x before an edit reads it.

        Returns:
            `[1, T, out]`; y itself where the batch does nothing at this site or gradients are off.
        """
        blocks = self.blocks.get(site)
        if not blocks:
            return y
        pieces, done = [], 0
        for block in blocks:
            seen = x[0, block.start : block.end]
            pieces.append(y[0, done : block.start])
            pieces.append(
                block.delta(y[0, block.start : block.end], seen if read is None else read(seen))
            )
            done = block.end
        if not torch.is_grad_enabled():
            return y  # the blocks wrote into it
        # Where gradients flow the runs are put together, never written into.
        return torch.cat([*pieces, y[0, done:]])[None]


@dataclass(frozen=True)
class Edits:
    """All that one batch does to the backbone.

    Attributes:
        layers: One entry for each layer.
    """

    layers: tuple[LayerEdits, ...]

    @classmethod
    def of(
        cls,
        adapters: Sequence[Adapter],
        packed: Packed,
        geometry: Geometry,
        noise: Noise | None = None,
    ) -> Edits:
        """Gathers what the adapters of a batch do.

        Args:
            adapters: Owner number to adapter; equal groups stand together (see `group_key`).
            packed: The batch.
            geometry: The backbone's.
            noise: Where dropout is drawn from; None outside training.
        """
        blocks: list[dict[str, list[Block]]] = [{} for _ in range(geometry.layers)]
        prefixes: list[Tensor] = []
        windows: list[tuple[int, int]] = [(0, 0)] * len(packed.owners)
        n_virtual = 0
        owners = sorted(set(packed.owners) - {-1})
        for _, members in groupby(owners, key=lambda owner: group_key(adapters[owner])):
            group = list(members)
            spans = [packed.span(owner) for owner in group]
            tokens = [packed.offsets[b] - packed.offsets[a] for a, b in spans]
            start = packed.offsets[spans[0][0]]
            contribution = type(adapters[group[0]].method).contribute(
                [(adapters[owner].method, adapters[owner].tensors) for owner in group],
                Share(Runs(tokens, packed.device), start, geometry, noise),
            )
            for (layer, site), delta in contribution.deltas.items():
                blocks[layer].setdefault(site, []).append(Block(start, start + sum(tokens), delta))
            for (a, b), prefix in zip(spans, contribution.prefixes or (), strict=False):
                windows[a:b] = [(n_virtual, prefix.shape[2])] * (b - a)
                n_virtual += prefix.shape[2]
                prefixes.append(prefix)
        plan = AttentionPlan.of(packed.lengths, windows if prefixes else None, packed.device)
        together = torch.cat(prefixes, dim=2) if prefixes else None
        return cls(
            tuple(
                LayerEdits(blocks[i], plan)
                if together is None
                else LayerEdits(blocks[i], plan, together[i, 0], together[i, 1])
                for i in range(geometry.layers)
            )
        )


def group_key(adapter: Adapter) -> tuple[str, str]:
    """Adapters with equal keys are computed as one block; batches are sorted by it."""
    return adapter.method.type, repr(adapter.method.group)
