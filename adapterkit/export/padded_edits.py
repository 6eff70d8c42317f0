"""What adapters do to a padded batch in which every row has its own adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapter.adapter import Adapter
from ..backbone.edits import Block, Delta, Edits, LayerEdits
from ..backbone.frozen_weights import FrozenWeights
from ..methods.group import Group
from ..ops.attention_plan import AttentionPlan
from ..ops.disentangled import PositionTable
from ..ops.relative_bias import RelativeBias
from ..ops.row_segments import RowSegments
from .padded_attention import PaddedAttention

NO_PLAN = AttentionPlan((), (), "cpu", 0)
"""The plan of a batch whose attention is a `PaddedAttention`."""


@dataclass(frozen=True)
class PaddedLayerEdits(LayerEdits):
    """What a padded batch does to one layer.

    Attributes:
        attention: The attention of the batch.
    """

    attention: PaddedAttention | None = None

    @property
    def _attention(self) -> PaddedAttention:
        if self.attention is None:
            raise ValueError("the edits of a padded batch need its attention")
        return self.attention

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
        attention = self._attention
        states = attention.with_prefixes(query, key, value, self.index, heads)
        return attention.attend(*states, attention.added(window, bias), scaling)

    def own_buckets(self, buckets: Tensor) -> Tensor:
        """As in `LayerEdits`: a row for each distance, of one row of the batch after the other."""
        near, n = self._attention.near(buckets), self._attention.mask.shape[0]
        return near[:, None].expand(-1, n, -1).flatten(1)

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
        attention = self._attention
        states = attention.with_prefixes(query, key, value, self.index, heads)
        keys, queries = (
            None if table is None else attention.positions(table, buckets, heads)
            for table in tables
        )
        return attention.attend_by_position(*states, (keys, queries), scaling)


class PaddedEdits:
    """The edits of adapters in padded batches.

    As in `assemble_edits`, adapters of one kind are computed as one group, and parents before those
    on top of them.

    Args:
        adapters: The adapters, in the order of their numbers.
        weights: The backbone's.
    """

    def __init__(self, adapters: Sequence[Adapter], weights: FrozenWeights) -> None:
        self._layers = weights.geometry.layers
        self._n_adapters = len(adapters)
        self._groups: list[_Group] = []
        prefixes: list[list[Tensor]] = [[] for _ in adapters]
        for places, parts in _groups_of(adapters):
            segments = RowSegments(len(parts))
            members = [(part.method, part.bound_tensors(weights)) for part in parts]
            kind = type(parts[0].method)
            edits = kind.edits(members, Group(segments, weights.geometry))
            own, whole = places.tolist(), bool((places >= 0).all())
            self._groups.append(_Group(segments, places, whole, dict(edits.deltas)))
            for number, place in enumerate(own):
                if edits.prefixes and place >= 0:
                    prefixes[number].append(edits.prefixes[place])
        self._prefixes, self._prefix_mask = _padded_prefixes(prefixes, weights)

    def of(self, owners: Tensor, mask: Tensor) -> Edits:
        """The edits of one batch.

        Args:
            owners: Number of each row's adapter, int64 `[n]`.
            mask: True where a token is no padding, `[n, t]`.
        """
        n, t = mask.shape
        blocks: list[dict[str, list[Block]]] = [{} for _ in range(self._layers)]
        for group in self._groups:
            inside = group.set_batch(owners, t)
            for (layer, site), delta in group.deltas.items():
                own = delta if inside is None else partial(_within, delta, inside)
                blocks[layer].setdefault(site, []).append(Block(0, n * t, own))
        attention = PaddedAttention(
            mask,
            self._prefix_mask[owners],
            None if self._prefixes is None else self._prefixes[owners],
        )
        layers = [
            PaddedLayerEdits(own, NO_PLAN, index, None, attention)
            for index, own in enumerate(blocks)
        ]
        return Edits(tuple(layers), (), 0)


@dataclass(frozen=True)
class _Group:
    """Adapters that are computed at once.

    Attributes:
        segments: Their rows.
        places: Place of each adapter of the file in the group, -1 if it is not in it, int64 `[G]`.
        is_whole: Whether all adapters are in it.
        deltas: As of `GroupEdits`.
    """

    segments: RowSegments
    places: Tensor
    is_whole: bool
    deltas: dict[tuple[int, str], Delta]

    def set_batch(self, owners: Tensor, tokens: int) -> Tensor | None:
        """Sets the batch, and returns whether each token's adapter is in the group, `[n * t, 1]`;
        None if all adapters are."""
        own = self.places[owners]
        self.segments.set_batch(own.clamp(min=0), tokens)
        if self.is_whole:
            return None
        return (own >= 0)[:, None].expand(-1, tokens).flatten()[:, None]


def _within(delta: Delta, inside: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return torch.where(inside, delta(y, x), y)


def _groups_of(adapters: Sequence[Adapter]) -> Iterator[tuple[Tensor, list[Adapter]]]:
    """The groups, those of all parents before those on top: the place of each adapter of the file
    in the group, and the group's adapters."""
    depth = max(len(adapter.stack) for adapter in adapters)
    for level in range(depth):
        here = [
            adapter.stack[level] if level < len(adapter.stack) else None for adapter in adapters
        ]
        distinct = {id(part): part for part in here if part is not None}
        parts = sorted(distinct.values(), key=lambda part: part.kind)
        for _, same in groupby(parts, key=lambda part: part.kind):
            members = list(same)
            number = {id(part): index for index, part in enumerate(members)}
            yield torch.tensor([number.get(id(part), -1) for part in here]), members


def _padded_prefixes(
    prefixes: Sequence[Sequence[Tensor]], weights: FrozenWeights
) -> tuple[Tensor | None, Tensor]:
    """The prefixes of adapters as one tensor, `[G, L, 2, P, h]`, and which of its tokens are an
    adapter's own, `[G, P]`; None and no tokens without any.

    Args:
        prefixes: Those of each adapter, `[L, 2, tokens, h]` each.
        weights: The backbone's.
    """
    geometry = weights.geometry
    none = torch.zeros(geometry.layers, 2, 0, geometry.key_value_width)
    joined = [torch.cat([none, *own], dim=2) for own in prefixes]
    counts = [own.shape[2] for own in joined]
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    if not mask.shape[1]:
        return None, mask
    padded = [F.pad(own, (0, 0, 0, max(counts) - own.shape[2])) for own in joined]
    return torch.stack(padded), mask
