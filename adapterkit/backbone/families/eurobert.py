"""EuroBERT (Boizard et al. 2025), as transformers implements it.

Pre-norm layers without token types: norms without a mean (RMSNorm), rotary positions, a gated
feed-forward block, and keys and values that several heads of queries may share. A prefix has keys
without positions, as in `modernbert.py`, and they are shared as those of the text are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from ...ops.rotary import rotate
from ..edits import LayerEdits
from ..geometry import Geometry, Site
from ..packing import Pooling
from ..residual_sum import ResidualSum
from ..rotary_angles import check_rotary, rotary_angles
from ..sequence_head import SequenceHead
from .base import Family

POOLINGS: dict[str, Pooling] = {"bos": "cls", "mean": "mean"}
"""What a configuration calls the vectors that classifiers read. The third, `late`, is the mean of
the logits of all tokens, which no task here computes."""

HEAD = SequenceHead(dense="dense", activation="gelu", linear_models=("TOKEN_CLS",))


class EuroBertLayer(nn.Module):
    """A layer of transformers' model for packed batches, with the same weights.

    transformers' own layer adds the residual of the feed-forward block where no hook can act, and
    makes several copies of query and key.

    Args:
        layer: transformers' layer.
        config: The model's configuration.
    """

    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__()
        self.input_layernorm = _rms_norm(layer.input_layernorm)
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.post_attention_layernorm = _rms_norm(layer.post_attention_layernorm)
        self.ffn_sum = ResidualSum()
        self.heads = config.num_attention_heads

    def forward(
        self, states: Tensor, *, edits: LayerEdits, angles: tuple[Tensor, Tensor]
    ) -> Tensor:
        """States `[1, T, h]` through the layer; angles are the cosines and sines, `[T, d / 2]`."""
        block, normed = self.self_attn, self.input_layernorm(states)
        linears = block.q_proj, block.k_proj, block.v_proj
        query, key, value = (linear(normed)[0] for linear in linears)
        query, key = rotate(query, *angles), rotate(key, *angles)
        mixed = edits.attend(query, key, value, self.heads, block.scaling)
        states = states + block.o_proj(mixed[None])
        summed: Tensor = self.ffn_sum(self.mlp(self.post_attention_layernorm(states)), states)
        return summed


def _rms_norm(norm: Any) -> nn.RMSNorm:
    """torch's module, which hooks know, with the weights of transformers' own."""
    own = nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, device="meta")
    own.weight = norm.weight
    return own


class EuroBert(Family):
    """EuroBERT."""

    type: ClassVar[str] = "eurobert"
    model_types: ClassVar[tuple[str, ...]] = ("eurobert",)
    prefix: ClassVar[str] = "model"
    layers_path: ClassVar[str] = "layers"
    activation_path: ClassVar[str | None] = None
    residual_path: ClassVar[str] = "ffn_sum"
    norm_path: ClassVar[str | None] = None

    def geometry(self, config: Any) -> Geometry:
        pooling = POOLINGS.get(config.classifier_pooling)
        return Geometry(
            prefix=self.prefix,
            sequence_head=None if pooling is None else replace(HEAD, pooling=pooling),
            layers_path=self.layers_path,
            sites={
                "query": Site("self_attn.q_proj"),
                "key": Site("self_attn.k_proj"),
                "value": Site("self_attn.v_proj"),
                "attention_output": Site("self_attn.o_proj"),
                "ffn_gate": Site("mlp.gate_proj"),
                "ffn_up": Site("mlp.up_proj"),
                "ffn_down": Site("mlp.down_proj"),
            },
            norms={
                "attention_layer_norm": "input_layernorm",
                "ffn_layer_norm": "post_attention_layernorm",
            },
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            key_value_heads=config.num_key_value_heads,
            positions=config.max_position_embeddings,
        )

    def uses_gelu(self, config: Any) -> bool:
        return bool(config.hidden_act == "gelu")

    def norm_eps(self, config: Any) -> float:
        return float(config.rms_norm_eps)

    def token_types(self, config: Any) -> int:
        return 1

    def settings(self, config: Any) -> Mapping[str, Any]:
        return {
            **super().settings(config),
            "activation": config.hidden_act,
            "rope": config.rope_parameters,
        }

    def prepare(self, model: Any) -> None:
        """Replaces the layers by `EuroBertLayer`.

        Raises:
            ValueError: Heads or rotary positions are not computed here.
        """
        check_rotary(model.rotary_emb, model.config, model.layers[0].self_attn.head_dim)
        for index, layer in enumerate(model.layers):
            model.layers[index] = EuroBertLayer(layer, model.config)

    def embed(
        self,
        model: Any,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        if inputs_embeds is not None:
            return inputs_embeds.clone()  # edits may change it in place
        states: Tensor = model.embed_tokens(input_ids)
        return states

    def layer_arguments(self, model: Any, position_ids: Tensor) -> Sequence[Mapping[str, Any]]:
        angles = rotary_angles(model.rotary_emb, position_ids)
        return [{"angles": angles}] * len(self.layers(model))

    def finish(self, model: Any, states: Tensor) -> Tensor:
        finished: Tensor = model.norm(states)
        return finished

    def is_backbone_weight(self, name: str) -> bool:
        # A checkpoint without a prefix may hold a head beside the backbone's three parts.
        return name.startswith(("embed_tokens.", "layers.", "norm."))
