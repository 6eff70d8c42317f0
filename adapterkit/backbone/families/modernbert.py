"""ModernBERT (Warner et al. 2024), as transformers implements it, and mmBERT (Marone et al. 2025).

Pre-norm layers without token types: rotary positions, one linear for query, key and value, a gated
feed-forward block, and attention that is local in most layers and global in the others.

A prefix has keys and values in every layer, which are used as they are: no rotation is applied to
its keys, as PEFT hands them to the cache of a decoder, where keys are rotated already. The
positions of the text start at P, so that the score of a token at i and prefix token j is
`(R(P + i) q_i) . k_j`. Local layers let every token attend to the whole prefix, and to the tokens
of the text within the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ...ops.gated_gelu import gated_gelu
from ...ops.rotary import rotate
from ..attention_shape import AttentionShape
from ..edits import LayerEdits
from ..geometry import Geometry, Site
from ..lm_head import DECODER, DENSE, NORM
from ..residual_sum import ResidualSum
from ..rotary_angles import check_rotary, rotary_angles
from ..sequence_head import SequenceHead
from .base import Family

LOCAL = "sliding_attention"
"""What a configuration calls layers that attend within the window alone."""


class ModernBertLayer(nn.Module):
    """A layer of transformers' model for packed batches, with the same weights.

    transformers' own layer makes several copies of query and key, and adds the residual of the
    feed-forward block where no hook can act.

    Args:
        layer: transformers' layer.
        config: The model's configuration.
        window: Greatest distance of a token that it attends to; None for no limit.
    """

    def __init__(self, layer: Any, config: Any, window: int | None) -> None:
        super().__init__()
        self.attn_norm, self.attn = layer.attn_norm, layer.attn
        self.mlp_norm, self.mlp = layer.mlp_norm, layer.mlp
        self.ffn_sum = ResidualSum()
        self.heads = config.num_attention_heads
        self.scaling = layer.attn.head_dim**-0.5
        self.is_gelu = config.hidden_activation == "gelu"
        self.window = window

    def forward(
        self, states: Tensor, *, edits: LayerEdits, angles: tuple[Tensor, Tensor]
    ) -> Tensor:
        """States `[1, T, h]` through the layer; angles are the cosines and sines, `[T, d / 2]`."""
        width = states.shape[-1]
        both, value = self.attn.Wqkv(self.attn_norm(states))[0].split((2 * width, width), dim=-1)
        query, key = rotate(both, *angles).chunk(2, dim=-1)
        mixed = edits.attend(query, key, value, self.heads, self.scaling, self.window)
        states = states + self.attn.out_drop(self.attn.Wo(mixed[None]))
        inner = self._activate(self.mlp.Wi(self.mlp_norm(states)))
        summed: Tensor = self.ffn_sum(self.mlp.Wo(self.mlp.drop(inner)), states)
        return summed

    def _activate(self, x: Tensor) -> Tensor:
        if self.is_gelu:
            return gated_gelu(x)
        inner, gate = x.chunk(2, dim=-1)
        activated: Tensor = self.mlp.act(inner)
        return activated * gate


class ModernBert(Family):
    """ModernBERT and the models of its shape, such as mmBERT."""

    type: ClassVar[str] = "modernbert"
    model_types: ClassVar[tuple[str, ...]] = ("modernbert",)
    prefix: ClassVar[str] = "model"
    layers_path: ClassVar[str] = "layers"
    activation_path: ClassVar[str | None] = None
    residual_path: ClassVar[str] = "ffn_sum"
    norm_path: ClassVar[str | None] = None
    pools_by_head: ClassVar[bool] = True
    lm_head: ClassVar[Mapping[str, str]] = {
        "head.dense": DENSE,
        "head.norm": NORM,
        "decoder": DECODER,
    }

    def geometry(self, config: Any) -> Geometry:
        width, inner = config.hidden_size, config.intermediate_size
        parts = {
            name: Site("attn.Wqkv", (index * width, (index + 1) * width))
            for index, name in enumerate(("query", "key", "value"))
        }
        return Geometry(
            prefix=self.prefix,
            layers_path=self.layers_path,
            sequence_head=self._head(config),
            sites={
                **parts,
                "qkv": Site("attn.Wqkv", width=3 * width),
                "attention_output": Site("attn.Wo"),
                "ffn_up": Site("mlp.Wi", width=2 * inner),
                "ffn_down": Site("mlp.Wo"),
            },
            norms={"attention_layer_norm": "attn_norm", "ffn_layer_norm": "mlp_norm"},
            entry_norm="embeddings.norm",
            layers=config.num_hidden_layers,
            hidden=width,
            intermediate=inner,
            heads=config.num_attention_heads,
            positions=config.max_position_embeddings,
            window=config.sliding_window if LOCAL in config.layer_types else None,
        )

    def _head(self, config: Any) -> SequenceHead | None:
        """That of its classifiers, whose other kinds have the same hidden layer for every token."""
        if not self.uses_gelu(config):
            return None
        return SequenceHead(
            dense="head.dense",
            activation="gelu",
            norm="head.norm",
            norm_eps=self.norm_eps(config),
            has_dense_bias=config.classifier_bias,
            has_norm_bias=config.norm_bias,
            pooling=self.pooler_input(config),
            linear_models=(),
        )

    def uses_gelu(self, config: Any) -> bool:
        # The layers know their own activation; what else asks means the head.
        return bool(config.classifier_activation == "gelu")

    def norm_eps(self, config: Any) -> float:
        return float(config.norm_eps)

    def token_types(self, config: Any) -> int:
        return 1

    def settings(self, config: Any) -> Mapping[str, Any]:
        return {
            **super().settings(config),
            "activation": config.hidden_activation,
            "layer_types": list(config.layer_types),
            "window": config.sliding_window,
            "rope": config.rope_parameters,
        }

    def pooler_input(self, config: Any) -> Literal["cls", "mean"]:
        return "mean" if config.classifier_pooling == "mean" else "cls"

    def prepare(self, model: Any) -> None:
        """Replaces the layers by `ModernBertLayer`.

        Raises:
            ValueError: Its rotary positions are not computed here.
        """
        config, rotary = model.config, model.rotary_emb
        for kind in set(config.layer_types):
            check_rotary(rotary, config, model.layers[0].attn.head_dim, kind)
        shapes = self.attention_shapes(model)
        for index, (layer, shape) in enumerate(zip(model.layers, shapes, strict=True)):
            model.layers[index] = ModernBertLayer(layer, config, shape.window)

    def embed(
        self,
        model: Any,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        if inputs_embeds is None:
            states: Tensor = model.embeddings(input_ids=input_ids)
        else:
            states = model.embeddings(inputs_embeds=inputs_embeds)
        return states

    def layer_arguments(self, model: Any, position_ids: Tensor) -> Sequence[Mapping[str, Any]]:
        kinds = model.config.layer_types
        angles = {kind: rotary_angles(model.rotary_emb, position_ids, kind) for kind in set(kinds)}
        return [{"angles": angles[kind]} for kind in kinds]

    def attention_shapes(self, model: Any) -> Sequence[AttentionShape]:
        config, shapes = model.config, super().attention_shapes(model)
        windows = {LOCAL: config.sliding_window}
        return [
            replace(shape, window=windows.get(kind))
            for shape, kind in zip(shapes, config.layer_types, strict=True)
        ]

    def finish(self, model: Any, states: Tensor) -> Tensor:
        finished: Tensor = model.final_norm(states)
        return finished
