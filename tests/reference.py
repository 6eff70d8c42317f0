"""Plain float32 loops, one sequence and one adapter at a time: what every fast path must equal."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterkit.adapter import Adapter
from adapterkit.backbone import Backbone
from adapterkit.batch import Inputs


def low_rank(
    x: Tensor, weights: list[Tensor], lengths: list[int], scales: list[float], activation: Any
) -> Tensor:
    """Run after run, token after token through its own two layers: down, up and their biases."""
    down, up, *bias = weights
    lines, start = [], 0
    for g, length in enumerate(lengths):
        for token in x[start : start + length]:
            inner = down[g] @ token + (bias[0][g] if bias else 0.0)
            inner = activation(inner) if activation else inner
            lines.append(scales[g] * (up[g] @ inner + (bias[1][g] if bias else 0.0)))
        start += length
    return torch.stack(lines)


def attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], heads: int, prefix: list[Any]
) -> Tensor:
    """Sequence after sequence, head after head; `prefix[n]` is a sequence's (keys, values)."""
    d, out, start = query.shape[1] // heads, [], 0
    for n, length in enumerate(lengths):
        own = slice(start, start + length)
        k = torch.cat([prefix[n][0], key[own]]) if prefix[n] else key[own]
        v = torch.cat([prefix[n][1], value[own]]) if prefix[n] else value[own]
        columns = [slice(h * d, (h + 1) * d) for h in range(heads)]
        out.append(
            torch.cat(
                [(query[own, c] @ k[:, c].T * d**-0.5).softmax(-1) @ v[:, c] for c in columns],
                dim=1,
            )
        )
        start += length
    return torch.cat(out)


def norm(module: Any, s: Tensor) -> Tensor:
    """Layer norm with a module's own weights."""
    return F.layer_norm(s, (s.shape[-1],), module.weight, module.bias, module.eps)


def layer(bert: Any, index: int, x: Tensor, adapter: Adapter | None) -> Tensor:
    """One BERT layer over one sequence `[n, h]`, every step written out."""
    block, tensors = bert.encoder.layer[index], adapter.tensors if adapter else {}
    kind = adapter.method.type if adapter else "none"
    method: Any = adapter.method if adapter else None

    def linear(module: Any, site: str, inner: Tensor) -> Tensor:
        y: Tensor = inner @ module.weight.T + module.bias
        if kind == "lora" and site in method.targets and index in (method.layers or range(99)):
            at = list(method.layers).index(index) if method.layers else index
            a, b = tensors[f"{site}.a"][at], tensors[f"{site}.b"][at]
            root = method.r**0.5 if method.rank_stabilised else method.r
            y = y + (inner @ a.T) @ b.T * (method.alpha / root)
        return y

    def bottleneck(site: str, inner: Tensor) -> Tensor:
        get = {
            part: tensors[f"{site}.{part}"][index]
            for part in ("down", "down_bias", "up", "up_bias")
        }
        act = {"relu": torch.relu, "swish": F.silu, "gelu": F.gelu}[method.activation]
        thin = act(inner @ get["down"].T + get["down_bias"])
        added: Tensor = method.scaling * (thin @ get["up"].T + get["up_bias"])
        return added

    placement = method.placement if kind == "bottleneck" else None
    own, heads = block.attention.self, block.attention.self.num_attention_heads
    q, k, v = (linear(getattr(own, site), site, x) for site in ("query", "key", "value"))
    prefix: Any = None
    if kind == "prefix":
        flat = tensors["prefix"].view(method.num_virtual_tokens, -1, 2, x.shape[-1])
        prefix = (flat[:, index, 0], flat[:, index, 1])
    mixed = attention(q, k, v, [len(x)], heads, [prefix])
    r = linear(block.attention.output.dense, "attention_output", mixed)
    if placement == "houlsby":
        r = r + bottleneck("after_attention", r)
    x = norm(block.attention.output.LayerNorm, r + x)
    r = F.gelu(linear(block.intermediate.dense, "ffn_up", x))
    r = linear(block.output.dense, "ffn_down", r)
    if placement == "houlsby":
        r = r + bottleneck("after_ffn", r)
    s = r + x
    if placement == "pfeiffer":
        s = s + bottleneck("ffn_norm", norm(block.output.LayerNorm, s))
    if placement == "parallel":
        s = s + bottleneck("ffn_residual", x)
    return norm(block.output.LayerNorm, s)


def hidden(backbone: Backbone, adapter: Adapter | None, inputs: Inputs) -> Tensor:
    """Last hidden state of one sequence, `[n, h]`."""
    bert: Any = backbone.model
    start = adapter.method.num_virtual_tokens if adapter else 0
    places = torch.arange(start, start + len(inputs))
    parts = bert.embeddings
    x = (
        parts.word_embeddings.weight[list(inputs.ids)]
        + parts.token_type_embeddings.weight[list(inputs.types)]
        + parts.position_embeddings.weight[places]
    )
    x = F.layer_norm(
        x, (x.shape[-1],), parts.LayerNorm.weight, parts.LayerNorm.bias, parts.LayerNorm.eps
    )
    for index in range(backbone.geometry.layers):
        x = layer(bert, index, x, adapter)
    return x


def logits(backbone: Backbone, adapter: Adapter, inputs: Inputs) -> Tensor:
    """Logits of one mean-pooled classification, `[C]`."""
    pooled = hidden(backbone, adapter, inputs).mean(0)
    return adapter.head["classifier.weight"] @ pooled + adapter.head["classifier.bias"]
