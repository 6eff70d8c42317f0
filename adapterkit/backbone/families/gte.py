"""GTE (Zhang et al. 2024), as transformers implements it; its own code calls it NewModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..lm_head import DECODER, DENSE, NORM
from ..sequence_head import SequenceHead
from ..stored_names import StoredNames
from .nomic_bert import NomicBert


class Gte(NomicBert):
    """NomicBERT's layers; the linears of the attention have biases."""

    type: ClassVar[str] = "gte"
    model_types: ClassVar[tuple[str, ...]] = ("gte",)
    prefix: ClassVar[str] = "gte"
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(
        dense="gte.pooler.dense", linear_models=("TOKEN_CLS",)
    )
    lm_head: ClassVar[Mapping[str, str]] = {
        "lm_head.dense": DENSE,
        "lm_head.layer_norm": NORM,
        "lm_head.decoder": DECODER,
    }
    stored_names: ClassVar[StoredNames] = {
        "new": ("gte",),
        "encoder.layer": ("layers",),
        "attention.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.o_proj": ("self_attn.o_proj",),
        "attn_ln": ("post_attention_layernorm",),
        "mlp_ln": ("post_mlp_layernorm",),
        "mlp.up_gate_proj": ("mlp.up_proj", "mlp.gate_proj"),
        "lm_head.norm": ("lm_head.layer_norm",),
    }
