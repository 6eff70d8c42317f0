"""A BERT that shares no name with transformers' BERT, neither of a module nor of a setting.

The model is post-norm like BERT, so the adapters of a BERT with the same weights answer the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapterkit import Family, Geometry, Site


class RenamedBertConfig(PretrainedConfig):
    """Settings of a `RenamedBert`."""

    model_type = "renamed-bert"

    n_tokens: int = 1000
    width: int = 32
    inner_width: int = 64
    depth: int = 2
    n_heads: int = 4
    max_tokens: int = 64
    eps: float = 1e-12


class Attention(nn.Module):
    """Self-attention; a subclass may compute the three projections in another way."""

    is_causal = False

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.q = nn.Linear(config.width, config.width)
        self.k = nn.Linear(config.width, config.width)
        self.v = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def projections(self, states: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value of `[1, T, h]`, as wide each."""
        return self.q(states), self.k(states), self.v(states)

    def forward(self, states: Tensor, **options: Any) -> Tensor:
        heads = states.shape[0], states.shape[1], self.config.n_heads, -1
        parts = (part.view(heads).transpose(1, 2) for part in self.projections(states))
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        scaling = (self.config.width // self.config.n_heads) ** -0.5
        mixed, _ = attend(self, *parts, None, scaling=scaling, **options)
        output: Tensor = self.out(mixed.reshape(states.shape))
        return output


class FeedForwardEnd(nn.Module):
    """Sums the feed-forward block and its residual, and norms the sum."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.down = nn.Linear(config.inner_width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.eps)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        output: Tensor = self.norm(self.down(inner) + residual)
        return output


class Block(nn.Module):
    """One layer."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.mixer = Attention(config, layer_idx)
        self.mixer_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.up = nn.Linear(config.width, config.inner_width)
        self.act = nn.GELU()
        self.end = FeedForwardEnd(config)

    def forward(self, states: Tensor, **options: Any) -> Tensor:
        states = self.mixer_norm(self.mixer(states, **options) + states)
        output: Tensor = self.end(self.act(self.up(states)), states)
        return output


class RenamedBert(PreTrainedModel):
    """The whole model; it has no pooler."""

    config_class = RenamedBertConfig
    base_model_prefix = "renamed"
    _supports_attention_backend = True
    _supports_sdpa = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.n_tokens, config.width)
        self.places = nn.Embedding(config.max_tokens, config.width)
        self.segments = nn.Embedding(2, config.width)
        self.entry_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.tower = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.post_init()  # type: ignore[no-untyped-call]  # transformers gives it no types

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def embedded(self, words: Tensor, position_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """States that enter the first layer, from word embeddings."""
        places, segments = self.places(position_ids), self.segments(token_type_ids)
        states: Tensor = self.entry_norm(words + places + segments)
        return states

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        """Hidden states `[n, t, h]` of rows without padding, for others than adapterkit."""
        position_ids = torch.arange(input_ids.shape[1])[None]
        types = torch.zeros_like(input_ids)
        states = self.embedded(self.words(input_ids), position_ids, types)
        for block in self.tower:
            states = block(states)
        return states


class RenamedBertFamily(Family):
    """Where everything is in a `RenamedBert`."""

    type: ClassVar[str] = "renamed-bert"
    model_types: ClassVar[tuple[str, ...]] = ("renamed-bert",)
    prefix: ClassVar[str] = "renamed"
    layers_path: ClassVar[str] = "tower"
    activation_path: ClassVar[str] = "act"
    residual_path: ClassVar[str | None] = "end"
    norm_path: ClassVar[str] = "end.norm"

    def sites(self, config: Any) -> dict[str, Site]:
        """Linear sites of a layer."""
        return {
            "query": Site("mixer.q"),
            "key": Site("mixer.k"),
            "value": Site("mixer.v"),
            "attention_output": Site("mixer.out"),
            "ffn_up": Site("up"),
            "ffn_down": Site("end.down"),
        }

    def geometry(self, config: Any) -> Geometry:
        return Geometry(
            prefix=self.prefix,
            layers_path=self.layers_path,
            sites=self.sites(config),
            layers=config.depth,
            hidden=config.width,
            intermediate=config.inner_width,
            heads=config.n_heads,
            positions=config.max_tokens,
        )

    def uses_gelu(self, config: Any) -> bool:
        return True

    def norm_eps(self, config: Any) -> float:
        return float(config.eps)

    def embed(
        self,
        model: Any,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        words = model.words(input_ids) if inputs_embeds is None else inputs_embeds
        states: Tensor = model.embedded(words, position_ids, token_type_ids)
        return states


AutoConfig.register("renamed-bert", RenamedBertConfig, exist_ok=True)
AutoModel.register(RenamedBertConfig, RenamedBert, exist_ok=True)
