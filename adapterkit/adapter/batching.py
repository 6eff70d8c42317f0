"""The edits of a batch: what its adapters do to the backbone, collected once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor

from ..backbone.edits import Block, Edits, GraphInputs, LayerEdits
from ..backbone.geometry import Geometry
from ..backbone.packing import Packed
from ..methods.base import Group
from ..ops.attention_plan import AttentionPlan
from ..ops.bucketing import bucket_for_onednn, bucket_size
from ..ops.dropout import Dropout
from ..ops.launch_table import LaunchTable
from ..ops.low_rank import BatchRange, Segments
from ..ops.low_rank_gpu import in_one_launch
from ..ops.prefix_tokens import Prefixes
from .adapter import Adapter


def assemble_edits(
    adapters: Sequence[Adapter],
    packed: Packed,
    geometry: Geometry,
    dropout: Dropout | None = None,
) -> Edits:
    """Collects what the adapters of a batch do to the backbone.

    Semantics of an adapter T on top of D, whatever their methods, D frozen and without dropout:

    - at a linear, `W x + D(x) + T(x)`: both read the linear's own input;
    - in the residual stream, `y' = y + D(y)` and then `y' + T(y')`: T reads the output of D, as in
      the stack of Pfeiffer et al. 2020 (MAD-X); at `ffn_norm` both read through the norm;
    - prefixes: a text attends to the virtual tokens of D and of T, and its position ids start after
      both, as if they were one prefix; no other edit changes a prefix;
    - at different sites: in the order of the layer, so T reads what D did at all earlier sites.

    Args:
        adapters: Owner number to adapter, in the order of `batching_key`.
        packed: The batch.
        geometry: The backbone's.
        dropout: Draws the dropout masks of all owners; None outside training.
    """
    blocks: list[dict[str, list[Block]]] = [{} for _ in range(geometry.layers)]
    untouched = [geometry.layers] * len(packed.owners)
    owners = sorted(set(packed.owners) - {-1})
    prefixes: dict[int, list[Tensor]] = {owner: [] for owner in owners}
    table, filled = launch_table_for(packed, adapters)
    graph_key: list[Hashable] = [filled]
    for members, masks in _groups(adapters, owners, dropout):
        spans = [(packed.span(own[0])[0], packed.span(own[-1])[1]) for _, own in members]
        tokens = [packed.offsets[b] - packed.offsets[a] for a, b in spans]
        if spans[-1][1] == len(packed.owners) and table is None:
            # Tokens that only fill the batch up are edited like the last one; nobody reads them.
            tokens[-1] += filled - packed.offsets[-1]
        start = packed.offsets[spans[0][0]]
        batch_range = None if table is None else BatchRange(table, start, filled)
        first = members[0][0]
        edits = type(first.method).edits(
            [(adapter.method, adapter.tensors) for adapter, _ in members],
            Group(Segments(tokens, packed.device, batch_range), geometry, masks),
        )
        bounds = (start, start + sum(tokens)) if table is None else (0, filled)
        for (layer, site), delta in edits.deltas.items():
            blocks[layer].setdefault(site, []).append(Block(*bounds, delta))
        graph_key += [*first.kind, *edits.deltas]
        lowest = min((layer for layer, _ in edits.deltas), default=geometry.layers)
        for a, b in spans:
            depth = 0 if edits.prefixes else lowest
            untouched[a:b] = [min(depth, known) for known in untouched[a:b]]
        for (_, own), prefix in zip(members, edits.prefixes or (), strict=False):
            for owner in own:
                prefixes[owner].append(prefix)
    layout, windows = _layout_prefixes(prefixes, packed)
    plan = AttentionPlan.of(packed.lengths, windows, packed.device, filled, table, layout)
    return Edits(
        tuple(LayerEdits(blocks[i], plan, i, layout) for i in range(geometry.layers)),
        tuple(untouched),
        filled,
        None if table is None else GraphInputs(table, (*graph_key, *table.layout)),
    )


def launch_table_for(packed: Packed, adapters: Sequence[Adapter]) -> tuple[LaunchTable | None, int]:
    """The launch table of a batch that is computed as a whole, else None, and the number of tokens
    that the batch is filled up to: on a GPU only so that graphs have few sizes."""
    tokens = packed.offsets[-1]
    if packed.device.type == "cpu":
        return None, bucket_for_onednn(tokens)
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


Member = tuple[Adapter, list[int]]
"""An adapter of a group, and the owners whose texts it is applied to."""


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
    prefixes: Mapping[int, Sequence[Tensor]], packed: Packed
) -> tuple[Prefixes | None, list[tuple[int, int]] | None]:
    """Places the prefix tokens of a batch one after another; equal prefixes are placed once.

    Args:
        prefixes: Owner to its prefixes, `[L, 2, P, h]` each.
        packed: The batch.

    Returns:
        All prefix tokens, and for each sequence the first of its own and their number; None and
        None without any.
    """
    windows = [(0, 0)] * len(packed.owners)
    known: dict[tuple[int, ...], tuple[int, int]] = {}
    placed: list[Tensor] = []
    end = 0
    for owner, own in prefixes.items():
        key = tuple(map(id, own))
        if own and key not in known:
            known[key] = (end, sum(prefix.shape[2] for prefix in own))
            end += known[key][1]
            placed += own
        a, b = packed.span(owner)
        windows[a:b] = [known.get(key, (0, 0))] * (b - a)
    return (Prefixes(placed), windows) if placed else (None, None)
