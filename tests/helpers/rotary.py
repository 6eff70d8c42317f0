"""Plain loops over layers with rotary positions, with adapters: one sequence at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from helpers import reference
from helpers.reference import Levels, edited, linear, tuned

ACTIVATIONS: dict[str, Any] = {"gelu": F.gelu, "silu": F.silu}


def rotated(x: Tensor, first: int, heads: int, theta: float) -> Tensor:
    """Queries or keys `[n, h]` turned by the angles of positions from `first` on, as complex
    numbers: number j of a head and number j + d / 2 are one, turned by `position theta^(-2 j / d)`.
    """
    n, width = x.shape
    d = width // heads
    angles = torch.arange(first, first + n)[:, None] * theta ** (-torch.arange(0, d, 2) / d)
    halves = x.view(n, heads, 2, d // 2)
    turned = torch.complex(halves[:, :, 0], halves[:, :, 1]) * torch.polar(
        torch.ones_like(angles), angles
    ).unsqueeze(1)
    return torch.cat([turned.real, turned.imag], dim=-1).reshape(n, width)


def attended(
    model: Any, block: Any, levels: Levels, index: int, x: Tensor, adapter: Adapter | None
) -> Tensor:
    """The attention of a layer over one sequence `[n, h]`, its output linear included."""
    config, at = model.config, (levels, index)
    heads, theta = config.num_attention_heads, config.rope_parameters["rope_theta"]
    start = adapter.num_virtual_tokens if adapter else 0
    q = rotated(linear(*at, "query", block.q_proj, x), start, heads, theta)
    d = x.shape[1] // heads
    key = linear(*at, "key", block.k_proj, x)
    key = rotated(key, start, key.shape[1] // d, theta)
    value = linear(*at, "value", block.v_proj, x)
    before = reference.prefix(*at, config.num_hidden_layers)

    def for_every_head(one: Tensor) -> Tensor:
        shared = list(one.split(d, dim=1))
        times = heads // len(shared)
        return torch.cat([part for part in shared for _ in range(times)], dim=1)

    before = before and tuple(for_every_head(one) for one in before)
    key, value = for_every_head(key), for_every_head(value)
    mixed = reference.attention(q, key, value, [len(x)], heads, [before])
    r = linear(*at, "attention_output", block.o_proj, mixed)
    return edited(*at, "after_attention", r)


def fed_forward(model: Any, block: Any, levels: Levels, index: int, x: Tensor) -> Tensor:
    """The feed-forward block of a layer, gated or not."""
    at, activation = (levels, index), ACTIVATIONS[model.config.hidden_act]
    if hasattr(block, "gate_proj"):
        inner = activation(linear(*at, "ffn_gate", block.gate_proj, x))
        inner, down = inner * linear(*at, "ffn_up", block.up_proj, x), block.down_proj
    else:
        inner, down = activation(linear(*at, "ffn_up", block.fc1, x)), block.fc2
    return edited(*at, "after_ffn", linear(*at, "ffn_down", down, inner))


def layer(backbone: Backbone, index: int, x: Tensor, adapter: Adapter | None) -> Tensor:
    """One layer over one sequence `[n, h]`, with every adapter of the stack."""
    model: Any = backbone.model
    block, levels = model.layers[index], adapter.stack if adapter else ()
    at, names = (levels, index), ("attention_layer_norm", "ffn_layer_norm")
    first, last = (block.get_submodule(backbone.geometry.norms[name]) for name in names)
    x = reference.entered(*at, x)
    if model.config.model_type == "eurobert":  # norms before the blocks
        normed = tuned(*at, names[0], first, x)
        x = x + attended(model, block.self_attn, *at, normed, adapter)
        inner = fed_forward(model, block.mlp, *at, tuned(*at, names[1], last, x))
        return edited(*at, "ffn_norm", inner + edited(*at, "ffn_residual", x))
    r = attended(model, block.self_attn, *at, x, adapter)
    x = tuned(*at, names[0], first, x + r)
    summed = fed_forward(model, block.mlp, *at, x) + edited(*at, "ffn_residual", x)
    summed = edited(*at, "ffn_norm", summed, lambda s: reference.norm(last, s))
    return tuned(*at, names[1], last, summed)


def logits(backbone: Backbone, adapter: Adapter, inputs: TokenSequence) -> Tensor:
    """Logits of one mean-pooled classification, `[C]`."""
    model: Any = backbone.model
    ids = torch.tensor(inputs.input_ids)
    if hasattr(model, "embed_tokens"):
        x = model.embed_tokens(ids)
    else:
        parts = model.embeddings
        x = parts.word_embeddings(ids)
        x = x + parts.token_type_embeddings(torch.tensor(inputs.token_type_ids))
        x = reference.norm(parts.LayerNorm, x)
    for index in range(backbone.geometry.layers):
        x = layer(backbone, index, x, adapter)
    if hasattr(model, "norm"):
        x = model.norm(x)
    found: Tensor = adapter.head["classifier.weight"] @ x.mean(0) + adapter.head["classifier.bias"]
    return found
