"""The forward pass of mixed batches, which training, evaluation, prediction and serving share."""

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
"""Most tokens of a packed batch outside training: enough for wide products, and little memory."""


@dataclass(frozen=True)
class AdapterOutput:
    """The output of one adapter for its rows of a batch.

    Attributes:
        adapter: The adapter; None for the plain backbone.
        rows: Indices of its rows in the batch, ascending.
        values: Logits of the task, `[sum(counts), C]`, row after row; of the plain backbone pooled
            vectors, `[n, h]`.
        counts: Number of logit vectors of each row: 1, or one for each of its tokens.
    """

    adapter: Adapter | None
    rows: tuple[int, ...]
    values: Tensor
    counts: tuple[int, ...]


def forward(
    backbone: Backbone,
    rows: Sequence[tuple[Adapter | None, TokenSequence]],
    make_dropout: Callable[[tuple[int, ...]], Dropout] | None = None,
    state_cache: StateCache | None = None,
    recompute: bool = False,
) -> list[AdapterOutput]:
    """Computes rows of any adapters, methods and tasks in one batch.

    Args:
        backbone: The backbone.
        rows: Adapter (None for the plain backbone) and tokens of each row, at least one.
        make_dropout: In training: from the indices of the rows in packed order to their dropout.
        state_cache: In training: states of texts below the layers that adapters edit.
        recompute: In training: compute the activations of layers again for the backward pass,
            instead of keeping them.

    Returns:
        The output of each adapter that occurs.
    """
    adapters = _adapters_of(rows)
    packed, texts = _packed(backbone, adapters, rows)
    dropout = make_dropout(packed.order) if make_dropout is not None else None

    recomputation = backbone.recomputation(dropout) if recompute else None

    def edits(part: Packed) -> Edits:
        assembled = assemble_edits(adapters, part, backbone.frozen_weights, dropout)
        return replace(assembled, recomputation=recomputation)

    encoded = encode_shared(backbone, packed, texts, edits, state_cache)
    values = _logits(adapters, encoded, dropout)
    if -1 in packed.owners:
        values[-1] = encoded.pooled(backbone.pooling)[slice(*packed.span(-1))]
    return [
        _in_order(adapters[owner] if owner >= 0 else None, packed, packed.span(owner), logits)
        for owner, logits in sorted(values.items())
    ]


def token_states(
    backbone: Backbone, rows: Sequence[tuple[Adapter | None, TokenSequence]]
) -> list[Tensor]:
    """The states of the last layer for rows of any adapters in one batch, without their heads.

    Args:
        backbone: The backbone.
        rows: Adapter (None for the plain backbone) and tokens of each row, at least one.

    Returns:
        For each row the state of every token, `[t, h]`, special tokens included.
    """
    adapters = _adapters_of(rows)
    packed, texts = _packed(backbone, adapters, rows)

    def edits(part: Packed) -> Edits:
        return assemble_edits(adapters, part, backbone.frozen_weights, None)

    encoded = encode_shared(backbone, packed, texts, edits, None)
    found = zip(packed.order, encoded.tokens.split(packed.lengths), strict=True)
    return [states for _, states in sorted(found, key=lambda one: one[0])]


def _adapters_of(rows: Sequence[tuple[Adapter | None, TokenSequence]]) -> list[Adapter]:
    """The adapters of a batch, neighbours of one kind together."""
    present = {id(adapter): adapter for adapter, _ in rows if adapter is not None}
    return sorted(present.values(), key=batching_key)


def _packed(
    backbone: Backbone,
    adapters: Sequence[Adapter],
    rows: Sequence[tuple[Adapter | None, TokenSequence]],
) -> tuple[Packed, list[Hashable | None]]:
    """Packs rows, whose owners are numbers of adapters.

    Returns:
        The batch, and for each packed sequence the key by which it shares lower layers.
    """
    number = {id(adapter): index for index, adapter in enumerate(adapters)}
    start = backbone.geometry.first_position
    firsts = [start + (adapter.position_offset if adapter else 0) for adapter, _ in rows]
    packed = pack(
        _with_equal_inputs(backbone, [inputs for _, inputs in rows]),
        [-1 if adapter is None else number[id(adapter)] for adapter, _ in rows],
        firsts,
        backbone.device,
    )
    return packed, [_sharing_key(rows[index][1], firsts[index]) for index in packed.order]


def _logits(
    adapters: Sequence[Adapter], encoded: EncoderOutput, dropout: Dropout | None
) -> dict[int, Tensor]:
    """Owner to the logits of its rows; all adapters of one class of tasks are computed together."""
    packed = encoded.packed
    kinds: dict[type[Task], dict[int, tuple[Task, HeadInput]]] = {}
    for owner in sorted(set(packed.owners) - {-1}):
        task, head = adapters[owner].task, adapters[owner].head
        own_dropout = dropout.select([owner]) if dropout is not None else None
        inputs = HeadInput(head, encoded, packed.span(owner), own_dropout)
        kinds.setdefault(type(task), {})[owner] = task, inputs
    values: dict[int, Tensor] = {}
    for kind, members in kinds.items():
        logits = kind.logits_of(list(members.values()))
        values |= zip(members, logits, strict=True)
    return values


def _with_equal_inputs(
    backbone: Backbone, inputs: Sequence[TokenSequence]
) -> Sequence[TokenSequence]:
    """The sequences with word embeddings for all if any of them has word embeddings."""
    if all(one.inputs_embeds is None for one in inputs):
        return inputs
    return [
        one
        if one.inputs_embeds is not None
        else replace(one, inputs_embeds=backbone.word_embeddings(one.input_ids))
        for one in inputs
    ]


def _sharing_key(inputs: TokenSequence, first: int) -> Hashable | None:
    """Sequences with equal keys have the same states below the layers that adapters edit; None for
    a sequence that shares with no other."""
    if inputs.inputs_embeds is not None:
        return None
    return first, tuple(inputs.input_ids), tuple(inputs.token_type_ids)


def _in_order(
    adapter: Adapter | None, packed: Packed, span: tuple[int, int], values: Tensor
) -> AdapterOutput:
    """The output of an adapter, with its rows from packed order in the order of the batch."""
    rows = packed.order[span[0] : span[1]]
    counts = (1,) * len(rows) if adapter is None else adapter.task.counts(packed, span)
    if all(before < after for before, after in pairwise(rows)):
        return AdapterOutput(adapter, rows, values, counts)
    order = sorted(range(len(rows)), key=rows.__getitem__)
    parts = values.split(counts)
    return AdapterOutput(
        adapter,
        tuple(rows[index] for index in order),
        torch.cat([parts[index] for index in order]),
        tuple(counts[index] for index in order),
    )


def text_limit(backbone: Backbone, adapter: Adapter | None) -> int:
    """Most tokens of a text: the limit of the task, or the positions that prefixes leave."""
    if adapter is None:
        return backbone.geometry.positions
    room = backbone.geometry.positions - adapter.position_offset
    return min(room, adapter.task.max_length or room)


def by_budget(sizes: Sequence[int], max_tokens: int = MAX_TOKENS) -> Iterator[range]:
    """Splits rows into consecutive ranges of at most `max_tokens` tokens, or of one row.

    Args:
        sizes: Tokens of each row.
        max_tokens: Most tokens of a range of several rows.
    """
    first, filled = 0, 0
    for index, size in enumerate(sizes):
        if index > first and filled + size > max_tokens:
            yield range(first, index)
            first, filled = index, 0
        filled += size
    if first < len(sizes):
        yield range(first, len(sizes))
