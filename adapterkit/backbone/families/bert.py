"""BERT (Devlin et al. 2019), as transformers implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..geometry import Geometry, Site
from ..lm_head import DECODER, DENSE, NORM
from ..sequence_head import SequenceHead
from .base import Family, word_arguments

SITES = {
    "query": Site("attention.self.query", peft_target="query"),
    "key": Site("attention.self.key", peft_target="key"),
    "value": Site("attention.self.value", peft_target="value"),
    "attention_output": Site("attention.output.dense"),
    "ffn_up": Site("intermediate.dense"),
    "ffn_down": Site("output.dense"),
}


NORMS = {
    "attention_layer_norm": "attention.output.LayerNorm",
    "ffn_layer_norm": "output.LayerNorm",
}


class Bert(Family):
    """BERT; its relatives with the same layers extend it."""

    type: ClassVar[str] = "bert"
    model_types: ClassVar[tuple[str, ...]] = ("bert",)
    prefix: ClassVar[str] = "bert"
    layers_path: ClassVar[str] = "encoder.layer"
    activation_path: ClassVar[str | None] = "intermediate.intermediate_act_fn"
    residual_path: ClassVar[str | None] = "output"
    norm_path: ClassVar[str] = "output.LayerNorm"
    pooler_path: ClassVar[str | None] = "pooler"
    takes_past_keys: ClassVar[bool] = True
    position_kinds: ClassVar[tuple[str, ...]] = ("absolute",)
    """The kinds of positions that a configuration may name, if it names one."""
    linear_sites: ClassVar[Mapping[str, Site]] = SITES
    norms: ClassVar[Mapping[str, str]] = NORMS
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(
        pooling="pooler", pooler="pooler.dense"
    )
    lm_head: ClassVar[Mapping[str, str]] = {
        "cls.predictions.transform.dense": DENSE,
        "cls.predictions.transform.LayerNorm": NORM,
        "cls.predictions": DECODER,
        "cls.predictions.decoder": DECODER,
    }

    def first_position(self, config: Any) -> int:
        """Position id of a text's first token."""
        return 0

    def entry_norm(self, config: Any) -> str | None:
        """Path of the layer norm whose output enters the first layer; None if more follows it."""
        return "embeddings.LayerNorm"

    def geometry(self, config: Any) -> Geometry:
        first = self.first_position(config)
        return Geometry(
            prefix=self.prefix,
            sequence_head=self.sequence_head,
            layers_path=self.layers_path,
            sites=self.linear_sites,
            norms=self.norms,
            entry_norm=self.entry_norm(config),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            positions=config.max_position_embeddings - first,
            first_position=first,
            takes_past_keys=self.takes_past_keys,
        )

    def uses_gelu(self, config: Any) -> bool:
        return bool(config.hidden_act == "gelu")

    def norm_eps(self, config: Any) -> float:
        return float(config.layer_norm_eps)

    def settings(self, config: Any) -> Mapping[str, Any]:
        return {**super().settings(config), "activation": config.hidden_act}

    def setting_faults(self, settings: Mapping[str, Any]) -> list[str]:
        kind, known = settings.get("position_embedding_type"), self.position_kinds
        faults = super().setting_faults(settings)
        if kind and kind not in known:
            only = ", ".join(known)
            faults.append(f"position_embedding_type: {kind!r:.80} is not supported, only {only}")
        return faults

    def embed(
        self,
        model: Any,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        words = word_arguments(input_ids, inputs_embeds)
        states: Tensor = model.embeddings(
            **words, token_type_ids=token_type_ids[None], position_ids=position_ids[None]
        )
        return states[0]

    def layer_arguments(self, model: Any, position_ids: Tensor) -> Sequence[Mapping[str, Any]]:
        # The layers want an attention mask; a packed batch needs none.
        return [{"attention_mask": None}] * len(self.layers(model))

    def is_backbone_weight(self, name: str) -> bool:
        # Some checkpoints without a prefix hold heads beside the backbone's two parts.
        return name.startswith(("embeddings", "encoder")) and super().is_backbone_weight(name)
