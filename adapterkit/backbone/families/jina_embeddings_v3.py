"""jina-embeddings-v3 (Sturua et al. 2024), as transformers implements it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..geometry import Site
from ..lm_head import DECODER, DENSE, NORM
from ..sequence_head import SequenceHead
from ..stored_names import StoredNames
from .nomic_bert import ATTENTION_SITES, NomicBert


class JinaEmbeddingsV3(NomicBert):
    """NomicBERT's layers with BERT's feed-forward block, and RoBERTa's heads."""

    type: ClassVar[str] = "jina_embeddings_v3"
    model_types: ClassVar[tuple[str, ...]] = ("jina_embeddings_v3",)
    prefix: ClassVar[str] = "roberta"
    activation_path: ClassVar[str | None] = "mlp.activation_fn"
    pooler_path: ClassVar[str | None] = "pooler"
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(
        linear="classifier.out_proj", dense="classifier.dense"
    )
    lm_head: ClassVar[Mapping[str, str]] = {
        "lm_head.dense": DENSE,
        "lm_head.layer_norm": NORM,
        "lm_head": DECODER,
        "lm_head.decoder": DECODER,
    }
    linear_sites: ClassVar[Mapping[str, Site]] = {
        **ATTENTION_SITES,
        "ffn_up": Site("mlp.fc1"),
        "ffn_down": Site("mlp.fc2"),
    }
    stored_names: ClassVar[StoredNames] = {
        "encoder.layers": ("layers",),
        "emb_ln": ("embeddings.LayerNorm",),
        "mixer.Wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mixer.out_proj": ("self_attn.o_proj",),
        "norm1": ("post_attention_layernorm",),
        "norm2": ("post_mlp_layernorm",),
    }
