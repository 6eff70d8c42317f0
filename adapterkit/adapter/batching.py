"""The edits of a batch: what its adapters do to the backbone, collected once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor

from ..backbone.edits import Block, Edits, GraphInputs, LayerEdits
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import Geometry
from ..backbone.packing import Packed
from ..methods.group import Group
from ..ops.attention_plan import AttentionPlan
from ..ops.bucketing import bucket_for_onednn, bucket_size
from ..ops.dropout import Dropout
from ..ops.launch_table import LaunchTable
from ..ops.low_rank_gpu import in_one_launch
from ..ops.prefix_tokens import Prefixes
from ..ops.segments import BatchRange, Segments
from .adapter import Adapter


def assemble_edits(
    adapters: Sequence[Adapter],
    packed: Packed,
    weights: FrozenWeights,
    dropout: Dropout | None = None,
) -> Edits:
    """Collects what the adapters of a batch do to the backbone.

    Semantics of an adapter T on top of D, whatever their methods, D frozen and without dropout:

    - at a linear, `W x + D(x) + T(x)`: both read the linear's own input;
    - in the residual stream, `y' = y + D(y)` and then `y' + T(y')`: T reads the output of D, as in
      the stack of Pfeiffer et al. 2020 (MAD-X); at `ffn_norm` both read through the norm;
    - prefixes: a text attends to the virtual tokens of D and of T, and its position ids start after
      both (those that shift positions), as if they were one prefix; no other edit changes a prefix;
    - at different sites: in the order of the layer, so T reads what D did at all earlier sites.

    Args:
        adapters: Owner number to adapter, in the order of `batching_key`.
        packed: The batch.
        weights: The backbone's.
        dropout: Draws the dropout masks of all owners; None outside training.
    """
    owners = sorted(set(packed.owners) - {-1})
    batch = _EditsBuilder(packed, weights, adapters)
    for members, masks in _groups(adapters, owners, dropout):
        batch.add_group(members, masks)
    return batch.edits()


Member = tuple[Adapter, list[int]]
"""An adapter of a group, and the owners whose texts it is applied to."""


class _EditsBuilder:
    """The edits of a batch, to which one group of adapters after the other is added.

    Args:
        packed: The batch.
        weights: The backbone's.
        adapters: Owner number to adapter.
    """

    def __init__(self, packed: Packed, weights: FrozenWeights, adapters: Sequence[Adapter]) -> None:
        geometry = weights.geometry
        self._packed, self._weights, self._geometry = packed, weights, geometry
        self._table, self._filled = launch_table_for(packed, adapters, geometry)
        self._graph_key: list[Hashable] = [self._filled]
        self._blocks: list[dict[str, list[Block]]] = [{} for _ in range(geometry.layers)]
        self._untouched = [geometry.layers] * len(packed.owners)
        self._prefixes: list[list[Tensor]] = [[] for _ in adapters]

    def add_group(self, members: Sequence[Member], masks: Dropout | None) -> None:
        """Adds what the adapters of one group do.

        Args:
            members: The group, in the order of its tokens.
            masks: Its dropout masks; None outside training and for frozen parents.
        """
        packed, first = self._packed, members[0][0]
        spans = [(packed.span(own[0])[0], packed.span(own[-1])[1]) for _, own in members]
        segments, bounds = self._segments(spans)
        edits = type(first.method).edits(
            [(adapter.method, adapter.bound_tensors(self._weights)) for adapter, _ in members],
            Group(segments, self._geometry, masks),
        )
        for (layer, site), delta in edits.deltas.items():
            self._blocks[layer].setdefault(site, []).append(Block(*bounds, delta))
        self._graph_key += [*first.kind, *edits.deltas]
        lowest = min((layer for layer, _ in edits.deltas), default=self._geometry.layers)
        depth = 0 if edits.prefixes else lowest
        for a, b in spans:
            self._untouched[a:b] = [min(depth, known) for known in self._untouched[a:b]]
        for (_, own), prefix in zip(members, edits.prefixes or (), strict=False):
            for owner in own:
                self._prefixes[owner].append(prefix)

    def _segments(self, spans: Sequence[tuple[int, int]]) -> tuple[Segments, tuple[int, int]]:
        """The tokens of a group, and the first and past-the-last token that its edits are given.

        Args:
            spans: First and past-the-last packed sequence of each adapter of the group.
        """
        packed, table = self._packed, self._table
        start = packed.offsets[spans[0][0]]
        tokens = [packed.offsets[b] - packed.offsets[a] for a, b in spans]
        if table is not None:
            batch_range = BatchRange(table, start, self._filled)
            return Segments(tokens, packed.device, batch_range), (0, self._filled)
        if spans[-1][1] == len(packed.owners):
            # Tokens that only fill the batch up are edited like the last one; nobody reads them.
            tokens[-1] += self._filled - packed.offsets[-1]
        return Segments(tokens, packed.device), (start, start + sum(tokens))

    def edits(self) -> Edits:
        """The edits of all groups that were added."""
        packed, table, filled = self._packed, self._table, self._filled
        layout, windows = _layout_prefixes(self._prefixes, packed)
        plan = AttentionPlan.of(packed.lengths, windows, packed.device, filled, table, layout)
        return Edits(
            tuple(LayerEdits(blocks, plan, i, layout) for i, blocks in enumerate(self._blocks)),
            tuple(self._untouched),
            filled,
            None if table is None else GraphInputs(table, (*self._graph_key, *table.layout)),
        )


def launch_table_for(
    packed: Packed, adapters: Sequence[Adapter], geometry: Geometry
) -> tuple[LaunchTable | None, int]:
    """The launch table of a batch that is computed as a whole, else None, and the number of tokens
    that the batch is filled up to: on a GPU only so that graphs have few sizes."""
    tokens = packed.offsets[-1]
    if packed.device.type == "cpu":
        return None, bucket_for_onednn(tokens)
    if geometry.window is not None and any(adapter.num_virtual_tokens for adapter in adapters):
        return None, tokens  # padded attention computes prefixes in local layers, batch by batch
    methods = (part.method for adapter in adapters for part in adapter.stack)
    if in_one_launch(packed.device) and all(method.low_rank_only for method in methods):
        return LaunchTable(), bucket_size(tokens)
    return None, tokens


def batching_key(adapter: Adapter) -> tuple[Any, ...]:
    """Sort key of the adapters of a batch: those that are computed as one group stand together, and
    so do those with the same parent."""
    key: list[Any] = []
    for part in adapter.stack:
        key += [*part.kind, part.name, id(part)]
    return tuple(key[:-2])


def _groups(
    adapters: Sequence[Adapter], owners: Sequence[int], dropout: Dropout | None
) -> Iterator[tuple[list[Member], Dropout | None]]:
    """The groups of a batch, each computed at once: those of all parents before those on top.

    Yields:
        The members of a group in the order of their tokens, and their dropout masks: None outside
        training and for frozen parents.
    """
    stacks = {owner: adapters[owner].stack for owner in owners}
    for level in range(max(map(len, stacks.values()), default=0)):
        here = {owner: stack[level] for owner, stack in stacks.items() if level < len(stack)}
        frozen = {
            owner: dropout is not None and here[owner] is not adapters[owner] for owner in here
        }
        kinds = {owner: (*part.kind, frozen[owner]) for owner, part in here.items()}
        same = {owner: id(part) for owner, part in here.items()}
        for kind, group in groupby(owners, key=kinds.get):
            if kind is not None:
                runs = [list(run) for _, run in groupby(group, key=same.__getitem__)]
                masks = None
                if dropout is not None and not kind[-1]:
                    masks = dropout.select([run[0] for run in runs])
                yield [(here[run[0]], run) for run in runs], masks


def _layout_prefixes(
    prefixes: Sequence[Sequence[Tensor]], packed: Packed
) -> tuple[Prefixes | None, list[tuple[int, int]] | None]:
    """Places the prefix tokens of a batch one after another; equal prefixes are placed once.

    Args:
        prefixes: For each owner its prefixes, `[L, 2, P, h]` each.
        packed: The batch.

    Returns:
        All prefix tokens, and for each sequence the first of its own and their number; None and
        None without any.
    """
    windows = [(0, 0)] * len(packed.owners)
    known: dict[tuple[int, ...], tuple[int, int]] = {}
    placed: list[Tensor] = []
    end = 0
    for owner, own in enumerate(prefixes):
        if not own:
            continue
        key = tuple(map(id, own))
        if key not in known:
            known[key] = (end, sum(prefix.shape[2] for prefix in own))
            end += known[key][1]
            placed += own
        a, b = packed.span(owner)
        windows[a:b] = [known[key]] * (b - a)
    return (Prefixes(placed), windows) if placed else (None, None)
