"""A random ModernBERT, and plain loops over its layers with adapters: one sequence at a time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from helpers import reference
from helpers.rotary import rotated

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 24,
    "local_attention": 16,
}
"""Heads of width 8, which padded attention computes."""

LARGER: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "local_attention": 10,
}
"""Heads of width 32, which compiled loops compute."""


def save_random_modernbert(folder: Path, tiny_folder: Path, **shape: Any) -> Path:
    """Saves a model with the tokenizer of the tiny BERT and weights that hide no wrong path."""
    from transformers import AutoTokenizer, ModernBertConfig, ModernBertModel

    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_folder))
    settings = {"max_position_embeddings": 256, "pad_token_id": 0, **SMALL, **shape}
    torch.manual_seed(0)
    model = ModernBertModel(ModernBertConfig(vocab_size=vocabulary, **settings))
    width = settings["hidden_size"]
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.6 * width**-0.5)
        else:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.1)
    model.save_pretrained(folder)
    return folder


def layer(backbone: Backbone, index: int, x: Tensor, adapter: Adapter | None) -> Tensor:
    """One layer over one sequence `[n, h]`, with every adapter of the stack."""
    model: Any = backbone.model
    block, config = model.layers[index], model.config
    levels = adapter.stack if adapter else ()
    start = adapter.num_virtual_tokens if adapter else 0
    heads, is_local = config.num_attention_heads, config.layer_types[index] == "sliding_attention"

    def added(site: str, inner: Tensor) -> Any:
        return sum(reference.lora(level, index, site, inner) for level in levels)

    def edited(site: str, inner: Tensor) -> Tensor:
        for level in levels:
            inner = inner + reference.bottleneck(level, index, site, inner)
        return inner

    inner = x if index == 0 else reference.norm(block.attn_norm, x)
    fused = inner @ block.attn.Wqkv.weight.T + added("qkv", inner)
    q, k, v = (
        part + added(site, inner)
        for site, part in zip(("query", "key", "value"), fused.chunk(3, dim=-1), strict=True)
    )
    theta = 10_000.0 if is_local else 160_000.0
    q, k = (rotated(part, start, heads, theta) for part in (q, k))
    flat = [
        level.tensors["prefix"].view(-1, config.num_hidden_layers, 2, x.shape[-1])
        for level in levels
        if level.method.type == "prefix"
    ]
    prefix = tuple(torch.cat([one[:, index, i] for one in flat]) for i in (0, 1)) if flat else None
    window = config.local_attention // 2 if is_local else None
    mixed = reference.attention(q, k, v, [len(x)], heads, [prefix], window)
    inner = mixed @ block.attn.Wo.weight.T + added("attention_output", mixed)
    x = x + edited("after_attention", inner)
    inner = reference.norm(block.mlp_norm, x)
    inner, gate = (inner @ block.mlp.Wi.weight.T + added("ffn_up", inner)).chunk(2, dim=-1)
    inner = F.gelu(inner) * gate
    inner = inner @ block.mlp.Wo.weight.T + added("ffn_down", inner)
    return edited("ffn_norm", edited("after_ffn", inner) + edited("ffn_residual", x))


def hidden(backbone: Backbone, adapter: Adapter | None, inputs: TokenSequence) -> Tensor:
    """Last hidden state of one sequence, `[n, h]`."""
    model: Any = backbone.model
    x = model.embeddings.tok_embeddings.weight[list(inputs.input_ids)]
    x = reference.norm(model.embeddings.norm, x)
    for index in range(backbone.geometry.layers):
        x = layer(backbone, index, x, adapter)
    return reference.norm(model.final_norm, x)


def logits(backbone: Backbone, adapter: Adapter, inputs: TokenSequence) -> Tensor:
    """Logits of one mean-pooled classification, `[C]`."""
    pooled = hidden(backbone, adapter, inputs).mean(0)
    return adapter.head["classifier.weight"] @ pooled + adapter.head["classifier.bias"]
