"""ALBERT (Lan et al. 2020), as transformers implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from ..geometry import Geometry, Site
from ..sequence_head import SequenceHead
from .bert import Bert

SITES = {
    "query": Site("attention.query", peft_target="layer.attention.query"),
    "key": Site("attention.key", peft_target="layer.attention.key"),
    "value": Site("attention.value", peft_target="layer.attention.value"),
    "attention_output": Site("attention.dense", peft_target="layer.attention.dense"),
    "ffn_up": Site("ffn", peft_target="layer.ffn"),
    "ffn_down": Site("ffn_output", peft_target="layer.ffn_output"),
}
"""PEFT has one adapter for all layers that share a module, and adapterkit one for each. So files of
adapterkit have names that no module has, and PEFT refuses them."""

MAX_LAYERS = 1000
"""The most layers that are computed: the weights do not say how many there are."""


class Albert(Bert):
    """Few layers, each computed several times in a row, over narrow embeddings."""

    type: ClassVar[str] = "albert"
    model_types: ClassVar[tuple[str, ...]] = ("albert",)
    prefix: ClassVar[str] = "albert"
    takes_past_keys: ClassVar[bool] = False
    activation_path: ClassVar[str | None] = "activation"
    residual_path: ClassVar[str | None] = None
    norm_path: ClassVar[str] = "full_layer_layer_norm"
    sequence_head: ClassVar[SequenceHead | None] = SequenceHead(pooling="pooler", pooler="pooler")
    lm_head: ClassVar[Mapping[str, str]] = {}
    linear_sites: ClassVar[Mapping[str, Site]] = SITES
    norms: ClassVar[Mapping[str, str]] = {
        "attention_layer_norm": "attention.LayerNorm",
        "ffn_layer_norm": "full_layer_layer_norm",
    }

    def entry_norm(self, config: Any) -> str | None:
        return None  # a linear follows

    def geometry(self, config: Any) -> Geometry:
        return replace(super().geometry(config), shared_layers=True)

    def stored_layers(self, config: Any) -> int:
        return int(config.num_hidden_groups)

    def layers(self, model: Any) -> Sequence[nn.Module]:
        groups, n_layers = model.encoder.albert_layer_groups, model.config.num_hidden_layers
        per_group = n_layers / model.config.num_hidden_groups
        return [groups[int(index / per_group)].albert_layers[0] for index in range(n_layers)]

    def settings(self, config: Any) -> Mapping[str, Any]:
        return {**super().settings(config), "layers": config.num_hidden_layers}

    def setting_faults(self, settings: Mapping[str, Any]) -> list[str]:
        faults = super().setting_faults(settings)
        if settings.get("inner_group_num", 1) != 1:
            faults.append(
                f"inner_group_num: {settings['inner_group_num']!r:.80} is not supported, only 1"
            )
        n_layers = settings.get("num_hidden_layers")
        if isinstance(n_layers, (int, float)) and n_layers > MAX_LAYERS:
            faults.append(f"num_hidden_layers: {n_layers!r:.80} is more than {MAX_LAYERS}")
        return faults

    def embed(
        self,
        model: Any,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        states = super().embed(model, input_ids, position_ids, token_type_ids, inputs_embeds)
        wide: Tensor = model.encoder.embedding_hidden_mapping_in(states)
        return wide

    def pool(self, model: Any, first: Tensor) -> Tensor:
        pooled: Tensor = model.pooler_activation(model.pooler(first))
        return pooled
