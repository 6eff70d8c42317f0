"""NomicBERT (Nussbaum et al. 2024), as transformers implements it.

Layers that end with a norm, as BERT's do, with rotary positions and a gated feed-forward block.
A prefix has keys without positions, as in `modernbert.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from ...ops.rotary import rotate
from ..edits import LayerEdits
from ..geometry import Site
from ..rotary_angles import check_rotary, rotary_angles
from ..sequence_head import SequenceHead
from ..stored_names import StoredNames
from .bert import Bert

ATTENTION_SITES = {
    "query": Site("self_attn.q_proj"),
    "key": Site("self_attn.k_proj"),
    "value": Site("self_attn.v_proj"),
    "attention_output": Site("self_attn.o_proj"),
}


class NomicBert(Bert):
    """NomicBERT; models with its layers and another feed-forward block extend it."""

    type: ClassVar[str] = "nomic_bert"
    model_types: ClassVar[tuple[str, ...]] = ("nomic_bert",)
    prefix: ClassVar[str] = "nomic_bert"
    takes_past_keys: ClassVar[bool] = False
    layers_path: ClassVar[str] = "layers"
    activation_path: ClassVar[str | None] = None
    residual_path: ClassVar[str | None] = None
    norm_path: ClassVar[str] = "post_mlp_layernorm"
    pooler_path: ClassVar[str | None] = None
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(
        dense="nomic_bert.pooler.dense", linear_models=("TOKEN_CLS",)
    )
    lm_head: ClassVar[Mapping[str, str]] = {}  # it has the activation of the layers, not GELU
    position_kinds: ClassVar[tuple[str, ...]] = ("absolute", "rotary", "rope")
    linear_sites: ClassVar[Mapping[str, Site]] = {
        **ATTENTION_SITES,
        "ffn_gate": Site("mlp.gate_proj"),
        "ffn_up": Site("mlp.up_proj"),
        "ffn_down": Site("mlp.down_proj"),
    }
    norms: ClassVar[Mapping[str, str]] = {
        "attention_layer_norm": "post_attention_layernorm",
        "ffn_layer_norm": "post_mlp_layernorm",
    }
    stored_names: ClassVar[StoredNames] = {
        "encoder.layers": ("layers",),
        "emb_ln": ("embeddings.LayerNorm",),
        "attn.Wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attn.out_proj": ("self_attn.o_proj",),
        "norm1": ("post_attention_layernorm",),
        "norm2": ("post_mlp_layernorm",),
        "mlp.fc11": ("mlp.up_proj",),
        "mlp.fc12": ("mlp.gate_proj",),
        "mlp.fc2": ("mlp.down_proj",),
    }

    def token_types(self, config: Any) -> int:
        return max(1, int(config.type_vocab_size))

    def settings(self, config: Any) -> Mapping[str, Any]:
        return {**super().settings(config), "rope": config.rope_parameters}

    def prepare(self, model: Any) -> None:
        """Lets the layers compute packed batches, without the copies that transformers makes.

        Raises:
            ValueError: Heads or rotary positions are not computed here.
        """
        heads = model.config.num_attention_heads
        check_rotary(model.rotary_emb, model.config, model.layers[0].self_attn.head_dim)
        for layer in self.layers(model):
            setattr(layer, "forward", partial(_forward, layer, heads))  # noqa: B010

    def layer_arguments(self, model: Any, position_ids: Tensor) -> Sequence[Mapping[str, Any]]:
        angles = rotary_angles(model.rotary_emb, position_ids)
        return [{"angles": angles}] * len(self.layers(model))

    def is_backbone_weight(self, name: str) -> bool:
        # Task models hold heads and a pooler beside the backbone's two parts.
        return name.startswith(("embeddings", "layers"))


def _forward(
    layer: Any, heads: int, states: Tensor, *, edits: LayerEdits, angles: tuple[Tensor, Tensor]
) -> Tensor:
    """A layer over a packed batch, `[1, T, h]`; angles are cosines and sines, `[T, d / 2]`."""
    block = layer.self_attn
    query, key, value = (linear(states)[0] for linear in (block.q_proj, block.k_proj, block.v_proj))
    query, key = rotate(query, *angles), rotate(key, *angles)
    mixed = edits.attend(query, key, value, heads, block.scaling)
    attended = layer.post_attention_dropout(block.o_proj(mixed[None]))
    states = layer.post_attention_layernorm(states + attended)
    inner = layer.post_mlp_dropout(layer.mlp(states))
    output: Tensor = layer.post_mlp_layernorm(states + inner)
    return output
