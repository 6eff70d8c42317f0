"""The one forward: training, evaluating, predicting and serving all run it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..adapter.adapter import Adapter
from ..adapter.batching import assemble_edits, batching_key
from ..backbone.edits import Edits
from ..backbone.model import Backbone
from ..backbone.packing import EncoderOutput, Packed, TokenSequence, pack
from ..ops.dropout import Dropout
from ..tasks.base import Task
from ..tasks.types import HeadInput
from .shared_layers import StateCache, encode_shared

MAX_TOKENS = 8192
"""Tokens in one packed batch outside training: enough to keep products wide, small in memory."""


@dataclass(frozen=True)
class AdapterOutput:
    """What one adapter has to say about its rows of a batch.

    Attributes:
        adapter: The adapter; None for the plain backbone.
        rows: Places of its rows among the rows that were given, ascending.
        values: The task's raw scores, row after row: a line for each, or for each of its tokens;
            for the plain backbone its pooled vectors `[n, h]`.
        counts: Lines of each row.
    """

    adapter: Adapter | None
    rows: tuple[int, ...]
    values: Tensor
    counts: tuple[int, ...]


def forward(
    backbone: Backbone,
    rows: Sequence[tuple[Adapter | None, TokenSequence]],
    noise: Callable[[tuple[int, ...]], Dropout] | None = None,
    memory: StateCache | None = None,
) -> list[AdapterOutput]:
    """Rows of any adapters, methods and tasks through the backbone in one call.

    Args:
        backbone: The backbone.
        rows: Adapter (None: the plain backbone) and tokenised text of each row, at least one.
        noise: In training, from the rows in packed order to where dropout is drawn from.
        memory: In training, states of texts below the layers that adapters act on.

    Returns:
        A piece for each adapter that occurs.
    """
    present = {id(adapter): adapter for adapter, _ in rows if adapter is not None}
    adapters = sorted(present.values(), key=batching_key)
    number = {id(adapter): place for place, adapter in enumerate(adapters)}
    start = backbone.geometry.first_position
    firsts = [start + (adapter.num_virtual_tokens if adapter else 0) for adapter, _ in rows]
    packed = pack(
        _alike(backbone, [inputs for _, inputs in rows]),
        [-1 if adapter is None else number[id(adapter)] for adapter, _ in rows],
        firsts,
        backbone.device,
    )
    drawn = noise(packed.order) if noise is not None else None
    texts = [_text(rows[n][1], firsts[n]) for n in packed.order]

    def edits(part: Packed) -> Edits:
        return assemble_edits(adapters, part, backbone.geometry, drawn)

    encoded = encode_shared(backbone, packed, texts, edits, memory)
    values = _logits(adapters, encoded, drawn)
    if -1 in packed.owners:
        values[-1] = encoded.pooled(backbone.pooling)[slice(*packed.span(-1))]
    return [
        _in_order(adapters[owner] if owner >= 0 else None, packed, packed.span(owner), said)
        for owner, said in sorted(values.items())
    ]


def _logits(
    adapters: Sequence[Adapter], encoded: EncoderOutput, drawn: Dropout | None
) -> dict[int, Tensor]:
    """Owner to the raw scores of its rows, the owners of one class of tasks asked together."""
    packed = encoded.packed
    kinds: dict[type[Task], dict[int, tuple[Task, HeadInput]]] = {}
    for owner in sorted(set(packed.owners) - {-1}):
        task, head = adapters[owner].task, adapters[owner].head
        dropout = drawn.select([owner]) if drawn is not None else None
        inputs = HeadInput(head, encoded, packed.span(owner), dropout)
        kinds.setdefault(type(task), {})[owner] = task, inputs
    values: dict[int, Tensor] = {}
    for kind, members in kinds.items():
        said = kind.logits_of(list(members.values()))
        values |= zip(members, said, strict=True)
    return values


def _alike(backbone: Backbone, inputs: Sequence[TokenSequence]) -> Sequence[TokenSequence]:
    """The sequences as one batch packs them: where some bring word embeddings, all do."""
    if all(one.inputs_embeds is None for one in inputs):
        return inputs
    return [
        one
        if one.inputs_embeds is not None
        else replace(one, inputs_embeds=backbone.word_embeddings(one.input_ids))
        for one in inputs
    ]


def _text(inputs: TokenSequence, first: int) -> Hashable | None:
    """What two sequences must have in common to be computed once where nothing is done to them;
    None for one that has nothing in common with any other."""
    if inputs.inputs_embeds is not None:
        return None
    return first, tuple(inputs.input_ids), tuple(inputs.token_type_ids)


def _in_order(
    adapter: Adapter | None, packed: Packed, span: tuple[int, int], values: Tensor
) -> AdapterOutput:
    """A piece with its rows in the order they were given, not in packed order."""
    rows = packed.order[span[0] : span[1]]
    counts = (1,) * len(rows) if adapter is None else adapter.task.counts(packed, span)
    if all(before < after for before, after in pairwise(rows)):
        return AdapterOutput(adapter, rows, values, counts)
    order = sorted(range(len(rows)), key=rows.__getitem__)
    parts = values.split(counts)
    return AdapterOutput(
        adapter,
        tuple(rows[place] for place in order),
        torch.cat([parts[place] for place in order]),
        tuple(counts[place] for place in order),
    )


def text_limit(backbone: Backbone, adapter: Adapter | None) -> int:
    """Most tokens of a text: the task's limit within what backbone and prefixes leave."""
    if adapter is None:
        return backbone.geometry.positions
    room = backbone.geometry.positions - adapter.num_virtual_tokens
    return min(room, adapter.task.max_length or room)


def by_budget(sizes: Sequence[int], max_tokens: int = MAX_TOKENS) -> Iterator[range]:
    """Cuts rows into consecutive ranges of at most `max_tokens` tokens, or of one row."""
    first, filled = 0, 0
    for place, size in enumerate(sizes):
        if place > first and filled + size > max_tokens:
            yield range(first, place)
            first, filled = place, 0
        filled += size
    if first < len(sizes):
        yield range(first, len(sizes))
