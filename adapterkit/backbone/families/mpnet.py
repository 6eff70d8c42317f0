"""MPNet (Song et al. 2020), as transformers implements it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...ops.relative_bias import RelativeBias
from ..edits import LayerEdits
from ..geometry import Site
from .roberta import Roberta

BUCKETS = 32
"""Buckets of distances that transformers computes, whatever the configuration says."""

FIRST_POSITION = 2
"""transformers counts positions from here, whatever the id of the padding token is."""


class Mpnet(Roberta):
    """RoBERTa's layers, with numbers for the distance of two tokens added to their score.

    All layers share these numbers. There are no token types.
    """

    type: ClassVar[str] = "mpnet"
    model_types: ClassVar[tuple[str, ...]] = ("mpnet",)
    prefix: ClassVar[str] = "mpnet"
    takes_past_keys: ClassVar[bool] = False
    uses_graphs: ClassVar[bool] = False
    norms: ClassVar[Mapping[str, str]] = {
        "attention_layer_norm": "attention.LayerNorm",
        "ffn_layer_norm": "output.LayerNorm",
    }
    linear_sites: ClassVar[Mapping[str, Site]] = {
        "query": Site("attention.attn.q"),
        "key": Site("attention.attn.k"),
        "value": Site("attention.attn.v"),
        "attention_output": Site("attention.attn.o"),
        "ffn_up": Site("intermediate.dense"),
        "ffn_down": Site("output.dense"),
    }

    def first_position(self, config: Any) -> int:
        return FIRST_POSITION

    def token_types(self, config: Any) -> int:
        return 1

    def setting_faults(self, settings: Mapping[str, Any]) -> list[str]:
        faults = super().setting_faults(settings)
        buckets = settings.get("relative_attention_num_buckets", BUCKETS)
        if isinstance(buckets, (int, float)) and buckets < BUCKETS:
            faults.append(
                f"relative_attention_num_buckets: {buckets!r:.80} is not supported, only {BUCKETS}"
            )
        return faults

    def prepare(self, model: Any) -> None:
        encoder, last = model.encoder, self.geometry(model.config).positions - 1
        device = encoder.relative_attention_bias.weight.device
        distances = torch.arange(-last, last + 1, device=device)
        buckets = encoder.relative_position_bucket(distances, num_buckets=BUCKETS)
        bias = RelativeBias(encoder.relative_attention_bias(buckets).T)
        for layer in self.layers(model):
            setattr(layer, "forward", partial(_forward, layer, bias))  # noqa: B010


def _forward(
    layer: Any, bias: RelativeBias, states: Tensor, *, edits: LayerEdits, **_: Any
) -> Tensor:
    """A layer over a packed batch, `[1, T, h]`; that of transformers wants a padded one."""
    block = layer.attention.attn
    query, key, value = (linear(states)[0] for linear in (block.q, block.k, block.v))
    heads, scaling = block.num_attention_heads, block.attention_head_size**-0.5
    mixed = edits.attend(query, key, value, heads, scaling, bias=bias)
    states = layer.attention.LayerNorm(block.o(mixed[None]) + states)
    output: Tensor = layer.output(layer.intermediate(states), states)
    return output
