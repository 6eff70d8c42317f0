"""All that one batch does to the backbone, as a value built once and passed into the call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import Adapter
from ..methods.base import Delta, Share
from ..ops.attention import AttentionPlan, flashes
from ..ops.frozen_linear import fill_up
from ..ops.launch_table import Sheet, roomy
from ..ops.low_rank import Among, Noise, Runs
from ..ops.low_rank_gpu import in_one_launch
from ..ops.prefix_tokens import Prefixes
from .families import Geometry
from .packing import Packed


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
        flash = flashes(key.device, key.dtype, key.shape[-1] // heads)
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
class Whole:
    """Edits whose numbers stand on a sheet, so that two of one kind differ in nothing but numbers.

    Attributes:
        sheet: The sheet.
        kind: What is done where, and the sizes of all that is read: a CUDA graph of a forward with
            one is right for every other of this kind.
    """

    sheet: Sheet
    kind: Hashable


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
    whole: Whole | None = None

    @classmethod
    def of(
        cls,
        adapters: Sequence[Adapter],
        packed: Packed,
        geometry: Geometry,
        noise: Noise | None = None,
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
            adapters: Owner number to adapter; equal groups stand together (see `group_key`).
            packed: The batch.
            geometry: The backbone's.
            noise: Where dropout is drawn from; None outside training.
        """
        blocks: list[dict[str, list[Block]]] = [{} for _ in range(geometry.layers)]
        untouched = [geometry.layers] * len(packed.owners)
        owners = sorted(set(packed.owners) - {-1})
        prefixes: dict[int, list[Tensor]] = {owner: [] for owner in owners}
        sheet, filled = _room(packed, adapters)
        kind: list[Hashable] = [filled]
        for runs, drawn in _groups(adapters, owners, noise):
            spans = [(packed.span(run[0])[0], packed.span(run[-1])[1]) for _, run in runs]
            tokens = [packed.offsets[b] - packed.offsets[a] for a, b in spans]
            if spans[-1][1] == len(packed.owners) and sheet is None:
                # What fills the batch up goes the way of its last token; nobody sees it.
                tokens[-1] += filled - packed.offsets[-1]
            start = packed.offsets[spans[0][0]]
            among = None if sheet is None else Among(sheet, start, filled)
            contribution = type(runs[0][0].method).contribute(
                [(floor.method, floor.tensors) for floor, _ in runs],
                Share(Runs(tokens, packed.device, among), geometry, drawn),
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
        together, windows = _laid(prefixes, packed)
        plan = AttentionPlan.of(packed.lengths, windows, packed.device, filled, sheet, together)
        return cls(
            tuple(LayerEdits(blocks[i], plan, i, together) for i in range(geometry.layers)),
            tuple(untouched),
            filled,
            None if sheet is None else Whole(sheet, (*kind, *sheet.kind)),
        )


def _room(packed: Packed, adapters: Sequence[Adapter]) -> tuple[Sheet | None, int]:
    """Where a batch's numbers stand, if it is computed as a whole, and the tokens it is filled up
    to: a GPU wins nothing by more tokens than there are, but by few sizes of graphs."""
    tokens = packed.offsets[-1]
    if packed.device.type == "cpu":
        return None, fill_up(tokens)
    methods = (floor.method for adapter in adapters for floor in adapter.floors)
    if in_one_launch(packed.device) and all(method.in_one_launch for method in methods):
        return Sheet(), roomy(tokens)
    return None, tokens


def group_key(adapter: Adapter) -> tuple[Any, ...]:
    """Batches are sorted by it: adapters that are computed as one block stand together, and so do
    those that stand on the same one."""
    key: list[Any] = []
    for floor in adapter.floors:
        key += [*floor.kind, floor.name, id(floor)]
    return tuple(key[:-2])


def _groups(
    adapters: Sequence[Adapter], owners: Sequence[int], noise: Noise | None
) -> Iterator[tuple[list[tuple[Adapter, list[int]]], Noise | None]]:
    """What is computed as one block, floor after floor: each of its adapters with the owners whose
    texts it is applied to, and where dropout is drawn from."""
    floors = {owner: adapters[owner].floors for owner in owners}
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


def _laid(
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
