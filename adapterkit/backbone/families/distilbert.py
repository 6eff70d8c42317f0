"""DistilBERT (Sanh et al. 2019), as transformers implements it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..geometry import Geometry, Site
from ..lm_head import DECODER, DENSE, NORM
from ..sequence_head import SequenceHead
from .base import Family, word_arguments

SITES = {
    "query": Site("attention.q_lin", peft_target="q_lin"),
    "key": Site("attention.k_lin", peft_target="k_lin"),
    "value": Site("attention.v_lin", peft_target="v_lin"),
    "attention_output": Site("attention.out_lin", peft_target="out_lin"),
    "ffn_up": Site("ffn.lin1", peft_target="lin1"),
    "ffn_down": Site("ffn.lin2", peft_target="lin2"),
}


class DistilBert(Family):
    """BERT's layers under other names; there are no token types and no pooler."""

    type: ClassVar[str] = "distilbert"
    model_types: ClassVar[tuple[str, ...]] = ("distilbert",)
    prefix: ClassVar[str] = "distilbert"
    layers_path: ClassVar[str] = "transformer.layer"
    activation_path: ClassVar[str] = "ffn.activation"
    residual_path: ClassVar[str | None] = None
    norm_path: ClassVar[str] = "output_layer_norm"
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(
        dense="pre_classifier", activation="relu"
    )
    lm_head: ClassVar[Mapping[str, str]] = {
        "vocab_transform": DENSE,
        "vocab_layer_norm": NORM,
        "vocab_projector": DECODER,
    }

    def geometry(self, config: Any) -> Geometry:
        return Geometry(
            prefix=self.prefix,
            sequence_head=self.sequence_head,
            layers_path=self.layers_path,
            sites=SITES,
            norms={
                "attention_layer_norm": "sa_layer_norm",
                "ffn_layer_norm": "output_layer_norm",
            },
            entry_norm="embeddings.LayerNorm",
            layers=config.n_layers,
            hidden=config.dim,
            intermediate=config.hidden_dim,
            heads=config.n_heads,
            positions=config.max_position_embeddings,
        )

    def uses_gelu(self, config: Any) -> bool:
        return bool(config.activation == "gelu")

    def norm_eps(self, config: Any) -> float:
        return 1e-12

    def token_types(self, config: Any) -> int:
        return 1

    def settings(self, config: Any) -> Mapping[str, Any]:
        return {**super().settings(config), "activation": config.activation}

    def embed(
        self,
        model: Any,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        words = word_arguments(input_ids, inputs_embeds)
        states: Tensor = model.embeddings(**words, position_ids=position_ids[None])
        return states[0]

    def is_backbone_weight(self, name: str) -> bool:
        # Some checkpoints without a prefix hold heads beside the backbone's two parts.
        return name.startswith(("embeddings", "transformer")) and super().is_backbone_weight(name)
