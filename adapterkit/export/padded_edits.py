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
from ..methods.base import Group
from ..ops.attention_plan import AttentionPlan
from ..ops.disentangled import PositionTable
from ..ops.relative_bias import RelativeBias
from ..ops.row_segments import RowSegments

LEAST = torch.finfo(torch.float32).min
"""Added to the scores of keys that are not attended to. A row of padding may attend to nothing, and
minus infinity would make it no number, which other rows would read."""


@dataclass(frozen=True)
class PaddedAttention:
    """Attention within the rows of a padded batch and their prefixes.

    Attributes:
        mask: True for a token that is no padding, `[n, t]`.
        prefix_mask: True for a prefix token of a row's adapter, `[n, P]`.
        prefixes: Keys and values of every layer before each row, `[n, L, 2, P, h]`; None without.
    """

    mask: Tensor
    prefix_mask: Tensor
    prefixes: Tensor | None

    def rows(self, x: Tensor, heads: int) -> Tensor:
        """Tokens `[n * t, heads * d]` as `[n, heads, t, d]`."""
        return x.view(*self.mask.shape, heads, -1).transpose(1, 2)

    def keys(self, x: Tensor, layer: int, part: int, heads: int) -> Tensor:
        """Keys or values of a layer after those of the prefix, `[n, heads, P + t, d]`.

        Args:
            x: Those of the tokens, `[n * t, heads * d]`.
            layer: Number of the layer.
            part: 0 for keys, 1 for values.
            heads: Number of heads.
        """
        own = self.rows(x, heads)
        if self.prefixes is None:
            return own
        before = self.prefixes[:, layer, part].unflatten(-1, (heads, -1)).transpose(1, 2)
        return torch.cat([before, own], dim=2)

    @property
    def attended(self) -> Tensor:
        """True for a key that its row attends to, `[n, 1, 1, P + t]`."""
        return torch.cat([self.prefix_mask, self.mask], dim=1)[:, None, None]

    @property
    def distances(self) -> Tensor:
        """Key minus query for each query and key, `[1, t, P + t]`; of a prefix it means nothing."""
        t, before = self.mask.shape[1], self.prefix_mask.shape[1]
        return (torch.arange(before + t) - before - torch.arange(t)[:, None])[None]

    @property
    def is_prefix(self) -> Tensor:
        """True for a key that is that of a prefix token, `[1, 1, P + t]`."""
        t, before = self.mask.shape[1], self.prefix_mask.shape[1]
        return (torch.arange(before + t) < before)[None, None]

    def added(self, window: int | None, bias: RelativeBias | None) -> Tensor:
        """What is added to the scaled scores, `[n, 1 or heads, 1 or t, P + t]`.

        Args:
            window: Greatest distance of a token that is attended to; None for no limit.
            bias: What is added by distance, if anything is.
        """
        seen = self.attended
        if window is not None:
            seen = seen & (self.is_prefix | (self.distances.abs() <= window))[:, None]
        if bias is None:
            return torch.zeros(()).masked_fill(~seen, LEAST)
        by_distance = bias.mask(self.distances, self.is_prefix, torch.ones_like(self.is_prefix))
        return by_distance.masked_fill(~seen, LEAST)


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
        rows = self._attention
        mixed = F.scaled_dot_product_attention(
            rows.rows(query, heads),
            rows.keys(key, self.index, 0, heads),
            rows.keys(value, self.index, 1, heads),
            attn_mask=rows.added(window, bias),
            scale=scaling,
        )
        return mixed.transpose(1, 2).reshape(query.shape)

    def own_buckets(self, buckets: Tensor) -> Tensor:
        """As in `LayerEdits`: a row for each distance, of one row of the batch after the other."""
        n = self._attention.mask.shape[0]
        return self._near(buckets)[:, None].expand(-1, n, -1).flatten(1)

    def _near(self, buckets: Tensor) -> Tensor:
        """Buckets of the distances 0 to t - 1 and 0 to 1 - t, int64 `[2, t]`."""
        places = torch.arange(self._attention.mask.shape[1])
        zero = len(buckets) // 2
        return buckets[torch.stack([zero + places, zero - places])]

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
        rows = self._attention
        t, before = rows.mask.shape[1], rows.prefix_mask.shape[1]
        q, k = rows.rows(query, heads), rows.rows(key, heads)
        difference = torch.arange(t)[:, None] - torch.arange(t)
        index = torch.where(difference >= 0, difference, t - difference).expand(*q.shape[:2], t, t)
        scores = q @ k.transpose(-1, -2)
        for table, x in zip(tables, (q, k), strict=True):
            if table is not None:
                states = self._positions(table, buckets, heads)
                term = x @ states.transpose(-1, -2)
                if x is q:
                    scores = scores + term.gather(-1, index)
                else:  # of key j and query i, the row of j and the distance i - j
                    scores = scores + term.gather(-1, index.transpose(-1, -2)).transpose(-1, -2)
        if rows.prefixes is not None:
            virtual = rows.keys(key, self.index, 0, heads)[:, :, :before]
            scores = torch.cat([q @ virtual.transpose(-1, -2), scores], dim=-1)
        weights = (scores * scaling).masked_fill(~rows.attended, LEAST).softmax(-1)
        mixed = weights @ rows.keys(value, self.index, 1, heads)
        return mixed.transpose(1, 2).reshape(query.shape)

    def _positions(self, table: PositionTable, buckets: Tensor, heads: int) -> Tensor:
        """Rows of a table for the distances of `_near`, `[n or 1, heads, 2 t, d]`."""
        n, t = self._attention.mask.shape
        if table.is_own:
            own = table.rows.view(2, n, t, heads, -1).permute(1, 3, 0, 2, 4)
        else:
            near = table.rows[self._near(buckets)]
            own = near.view(2, 1, t, heads, -1).permute(1, 3, 0, 2, 4)
        return own.flatten(2, 3)


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
        plan = AttentionPlan((), (), mask.device, 0)  # `attention` is in its place
        layers = [
            PaddedLayerEdits(own, plan, index, None, attention) for index, own in enumerate(blocks)
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
        here = [adapter.stack[level] if level < len(adapter.stack) else None for adapter in adapters]
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
    none = torch.zeros(geometry.layers, 2, 0, geometry.hidden)
    joined = [torch.cat([none, *own], dim=2) for own in prefixes]
    counts = [own.shape[2] for own in joined]
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    if not mask.shape[1]:
        return None, mask
    padded = [F.pad(own, (0, 0, 0, max(counts) - own.shape[2])) for own in joined]
    return torch.stack(padded), mask
