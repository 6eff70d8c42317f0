"""DeBERTa-v2 and DeBERTa-v3 (He et al. 2021), as transformers implements them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...ops.disentangled import PositionTable
from ..attention_shape import AttentionShape
from ..edits import LayerEdits
from ..geometry import Geometry, Site
from ..sequence_head import SequenceHead
from .bert import Bert

SETTINGS = (
    "relative_attention",
    "position_buckets",
    "max_relative_positions",
    "max_position_embeddings",
    "pos_att_type",
    "share_att_key",
    "norm_rel_ebd",
    "position_biased_input",
)
"""Settings that change answers."""


class Positions:
    """The positions of one layer: what does not depend on the texts.

    Args:
        attention: transformers' attention of the layer.
        embeddings: The normed embeddings of buckets, `[M, h]`.
        buckets: Bucket of each distance, int64 `[2 N - 1]`.
    """

    def __init__(self, attention: Any, embeddings: Tensor, buckets: Tensor) -> None:
        self.embeddings, self.buckets = embeddings, buckets
        self._shares = attention.share_att_key
        names = ("key_proj", "query_proj") if self._shares else ("pos_key_proj", "pos_query_proj")
        self._tables = [
            getattr(attention, name)(embeddings[None])[0]
            if kind in attention.pos_att_type
            else None
            for kind, name in zip(("c2p", "p2c"), names, strict=True)
        ]

    def tables(self, edits: LayerEdits) -> tuple[PositionTable | None, PositionTable | None]:
        """Keys and queries of positions, as the adapters of the batch change them.

        If keys and queries of positions have the linears of those of tokens, an edit there acts on
        both, as it does in PEFT.
        """
        key, query = (
            None if table is None else self._edited(edits, site, table)
            for site, table in zip(("key", "query"), self._tables, strict=True)
        )
        return key, query

    def _edited(self, edits: LayerEdits, site: str, table: Tensor) -> PositionTable:
        if not self._shares or not edits.blocks.get(site):
            return PositionTable(table, is_own=False)
        halves = [
            edits.apply(site, table[rows][None], self.embeddings[rows][None])[0]
            for rows in edits.own_buckets(self.buckets).unbind()
        ]
        return PositionTable(torch.cat(halves), is_own=True)


class DebertaV2(Bert):
    """BERT's layers with scores of content and distance."""

    type: ClassVar[str] = "deberta-v2"
    model_types: ClassVar[tuple[str, ...]] = ("deberta-v2",)
    prefix: ClassVar[str] = "deberta"
    takes_past_keys: ClassVar[bool] = False
    pooler_path: ClassVar[str | None] = None
    lm_head: ClassVar[Mapping[str, str]] = {}
    uses_graphs: ClassVar[bool] = False
    divisible: ClassVar[bool] = False
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(
        dense="pooler.dense", activation="gelu"
    )
    unused_weights: ClassVar[tuple[str, ...]] = ("embeddings.position_embeddings.weight",)
    linear_sites: ClassVar[Mapping[str, Site]] = {
        "query": Site("attention.self.query_proj", peft_target="query_proj"),
        "key": Site("attention.self.key_proj", peft_target="key_proj"),
        "value": Site("attention.self.value_proj", peft_target="value_proj"),
        "attention_output": Site("attention.output.dense"),
        "ffn_up": Site("intermediate.dense"),
        "ffn_down": Site("output.dense"),
    }

    def geometry(self, config: Any) -> Geometry:
        is_known = config.pooler_hidden_act == "gelu"
        head = self.sequence_head if is_known else None
        return replace(super().geometry(config), sequence_head=head)

    def token_types(self, config: Any) -> int:
        return max(1, int(config.type_vocab_size))

    def settings(self, config: Any) -> Mapping[str, Any]:
        found = {name: getattr(config, name, None) for name in SETTINGS}
        return {**super().settings(config), **found}

    def setting_faults(self, settings: Mapping[str, Any]) -> list[str]:
        faults = super().setting_faults(settings)
        if settings.get("conv_kernel_size"):
            kernel = settings["conv_kernel_size"]
            faults.append(f"conv_kernel_size: {kernel!r:.80} is not supported, only 0")
        width = settings.get("attention_head_size")
        if width is not None:
            faults.append(f"attention_head_size: {width!r:.80} is not supported, only its default")
        return faults

    @torch.no_grad()
    def prepare(self, model: Any) -> None:
        embeddings, buckets = _positions(model, self.geometry(model.config).positions)
        layers: Sequence[Any] = self.layers(model)
        for layer in layers:
            attention = layer.attention.self
            positions = None if embeddings is None else Positions(attention, embeddings, buckets)
            setattr(layer, "forward", partial(_forward, layer, positions))  # noqa: B010

    def attention_shapes(self, model: Any) -> Sequence[AttentionShape]:
        shapes = super().attention_shapes(model)
        embeddings, buckets = _positions(model, self.geometry(model.config).positions)
        if embeddings is None:
            return shapes
        first: Any = self.layers(model)[0]
        terms = _position_terms(first.attention.self)
        return [replace(shape, position_terms=terms, buckets=buckets) for shape in shapes]


def _position_terms(block: Any) -> int:
    """How many scores of a token and a distance transformers' attention `block` adds: 0 to 2."""
    return len({"c2p", "p2c"} & set(block.pos_att_type))


def _positions(model: Any, longest: int) -> tuple[Tensor | None, Tensor]:
    """The embeddings of buckets, `[M, h]`, and the bucket of each distance, `[2 N - 1]`.

    There are no embeddings if the model does not use distances.
    """
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances, encoder = torch.arange(1 - longest, longest), model.encoder
    if not encoder.relative_attention:
        return None, distances
    n_buckets, farthest = encoder.position_buckets, encoder.max_relative_positions
    if n_buckets > 0 and farthest > 0:
        distances = make_log_bucket_position(distances, n_buckets, farthest).long()
    span = n_buckets if n_buckets > 0 else farthest
    embeddings = encoder.get_rel_embedding()[: 2 * span].detach()
    return embeddings, (distances + span).clamp(0, 2 * span - 1)


def _forward(
    layer: Any, positions: Positions | None, states: Tensor, *, edits: LayerEdits, **_: Any
) -> Tensor:
    """A layer over a packed batch, `[1, T, h]`; that of transformers wants a padded one."""
    block = layer.attention.self
    linears = block.query_proj, block.key_proj, block.value_proj
    query, key, value = (linear(states)[0] for linear in linears)
    n_terms = 1 + _position_terms(block)
    sizes = block.num_attention_heads, (block.attention_head_size * n_terms) ** -0.5
    if positions is None:
        mixed = edits.attend(query, key, value, *sizes)
    else:
        tables = positions.tables(edits)
        mixed = edits.attend_by_position(query, key, value, positions.buckets, tables, *sizes)
    states = layer.attention.output(mixed[None], states)
    output: Tensor = layer.output(layer.intermediate(states), states)
    return output
