"""The edits of a batch: what its adapters do to the backbone, gathered once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor

from ..backbone.edits import Block, Edits, GraphInputs, LayerEdits
from ..backbone.families import Geometry
from ..backbone.packing import Packed
from ..methods.base import Share
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
    noise: Dropout | None = None,
) -> Edits:
    """Gathers what the adapters of a batch do.

    Semantics of an adapter T on top of D, whatever their methods, D frozen and without dropout:

    - at a linear, `W x + D(x) + T(x)`: both read the linear's own input;
    - in the residual stream, `y' = y + D(y)` and then `y' + T(y')`: T reads what D left, as
      the stack of Pfeiffer et al. 2020 (MAD-X) does; at `ffn_norm` both read through the norm;
    - prefixes: a text attends to D's virtual tokens and to T's, and its positions start after
      as many, as if they were one prefix; no other edit touches a prefix;
    - at different places: as the layer comes to them, so T reads what D did to all before it.

    Args:
        adapters: Owner number to adapter; equal groups stand together (see `batching_key`).
        packed: The batch.
        geometry: The backbone's.
        noise: Where dropout is drawn from; None outside training.
    """
    blocks: list[dict[str, list[Block]]] = [{} for _ in range(geometry.layers)]
    untouched = [geometry.layers] * len(packed.owners)
    owners = sorted(set(packed.owners) - {-1})
    prefixes: dict[int, list[Tensor]] = {owner: [] for owner in owners}
    sheet, filled = _launch_table_for(packed, adapters)
    kind: list[Hashable] = [filled]
    for runs, drawn in _groups(adapters, owners, noise):
        spans = [(packed.span(run[0])[0], packed.span(run[-1])[1]) for _, run in runs]
        tokens = [packed.offsets[b] - packed.offsets[a] for a, b in spans]
        if spans[-1][1] == len(packed.owners) and sheet is None:
            # What fills the batch up goes the way of its last token; nobody sees it.
            tokens[-1] += filled - packed.offsets[-1]
        start = packed.offsets[spans[0][0]]
        among = None if sheet is None else BatchRange(sheet, start, filled)
        contribution = type(runs[0][0].method).contribute(
            [(floor.method, floor.tensors) for floor, _ in runs],
            Share(Segments(tokens, packed.device, among), geometry, drawn),
        )
        first, end = (start, start + sum(tokens)) if sheet is None else (0, filled)
        for (layer, site), delta in contribution.deltas.items():
            blocks[layer].setdefault(site, []).append(Block(first, end, delta))
        kind += [*runs[0][0].kind, *contribution.deltas]
        lowest = min((layer for layer, _ in contribution.deltas), default=geometry.layers)
        for a, b in spans:
            depth = 0 if contribution.prefixes else lowest
            untouched[a:b] = [min(depth, known) for known in untouched[a:b]]
        for (_, run), prefix in zip(runs, contribution.prefixes or (), strict=False):
            for owner in run:
                prefixes[owner].append(prefix)
    together, windows = _layout_prefixes(prefixes, packed)
    plan = AttentionPlan.of(packed.lengths, windows, packed.device, filled, sheet, together)
    return Edits(
        tuple(LayerEdits(blocks[i], plan, i, together) for i in range(geometry.layers)),
        tuple(untouched),
        filled,
        None if sheet is None else GraphInputs(sheet, (*kind, *sheet.kind)),
    )


def _launch_table_for(
    packed: Packed, adapters: Sequence[Adapter]
) -> tuple[LaunchTable | None, int]:
    """Where a batch's numbers stand, if it is computed as a whole, and the tokens it is filled up
    to: a GPU wins nothing by more tokens than there are, but by few sizes of graphs."""
    tokens = packed.offsets[-1]
    if packed.device.type == "cpu":
        return None, bucket_for_onednn(tokens)
    methods = (floor.method for adapter in adapters for floor in adapter.stack)
    if in_one_launch(packed.device) and all(method.in_one_launch for method in methods):
        return LaunchTable(), bucket_size(tokens)
    return None, tokens


def batching_key(adapter: Adapter) -> tuple[Any, ...]:
    """Batches are sorted by it: adapters that are computed as one block stand together, and so do
    those that stand on the same one."""
    key: list[Any] = []
    for floor in adapter.stack:
        key += [*floor.kind, floor.name, id(floor)]
    return tuple(key[:-2])


def _groups(
    adapters: Sequence[Adapter], owners: Sequence[int], noise: Dropout | None
) -> Iterator[tuple[list[tuple[Adapter, list[int]]], Dropout | None]]:
    """What is computed as one block, floor after floor: each of its adapters with the owners whose
    texts it is applied to, and where dropout is drawn from."""
    floors = {owner: adapters[owner].stack for owner in owners}
    for level in range(max(map(len, floors.values()), default=0)):
        here = {owner: own[level] for owner, own in floors.items() if level < len(own)}
        frozen = {owner: noise is not None and here[owner] is not adapters[owner] for owner in here}
        kinds = {owner: (*floor.kind, frozen[owner]) for owner, floor in here.items()}
        same = {owner: id(floor) for owner, floor in here.items()}
        for kind, group in groupby(owners, key=kinds.get):
            if kind is not None:
                runs = [list(run) for _, run in groupby(group, key=same.__getitem__)]
                drawn = None if noise is None or kind[-1] else noise.of([run[0] for run in runs])
                yield [(here[run[0]], run) for run in runs], drawn


def _layout_prefixes(
    prefixes: Mapping[int, Sequence[Tensor]], packed: Packed
) -> tuple[Prefixes | None, list[tuple[int, int]] | None]:
    """Prefix tokens end to end, and each sequence's run among them; owners of the same prefixes
    share one."""
    windows = [(0, 0)] * len(packed.owners)
    places: dict[tuple[int, ...], tuple[int, int]] = {}
    laid: list[Tensor] = []
    end = 0
    for owner, own in prefixes.items():
        key = tuple(map(id, own))
        if own and key not in places:
            places[key] = (end, sum(prefix.shape[2] for prefix in own))
            end += places[key][1]
            laid += own
        a, b = packed.span(owner)
        windows[a:b] = [places.get(key, (0, 0))] * (b - a)
    return (Prefixes(laid), windows) if laid else (None, None)
