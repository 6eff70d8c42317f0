"""Plain float32 loops, one sequence and one adapter at a time: the reference of every fast path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence

METHODS = (
    *("lora", "dora", "biased_lora", "vera", "prefix", "bottleneck", "ia3", "bitfit", "ln_tuning"),
    "head",
)
"""Methods that `logits` supports."""


def low_rank(
    x: Tensor, weights: list[Tensor], lengths: list[int], scales: list[float], activation: Any
) -> Tensor:
    """Each token of each segment through its own two layers: down, up and their biases."""
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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    heads: int,
    prefix: list[Any],
    window: int | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Sequence after sequence, head after head; `prefix[n]` is a sequence's (keys, values).

    With a window, tokens further away than that are not attended to; all of a prefix is. A bias,
    `[heads, 2 N - 1]`, is added to the scores of tokens by their distance, and not to a prefix's.
    """
    d, out, start = query.shape[1] // heads, [], 0
    for n, length in enumerate(lengths):
        own = slice(start, start + length)
        k = torch.cat([prefix[n][0], key[own]]) if prefix[n] else key[own]
        v = torch.cat([prefix[n][1], value[own]]) if prefix[n] else value[own]
        mask = torch.zeros(heads, length, len(k))
        distance = torch.arange(length) - torch.arange(length)[:, None]
        if bias is not None:
            mask[:, :, len(k) - length :] = bias[:, (bias.shape[1] - 1) // 2 + distance]
        if window is not None:
            mask[:, :, len(k) - length :].masked_fill_(distance.abs() > window, -torch.inf)
        columns = [slice(h * d, (h + 1) * d) for h in range(heads)]
        scores = [query[own, c] @ k[:, c].T * d**-0.5 for c in columns]
        weights = [(s + m).softmax(-1) for s, m in zip(scores, mask, strict=True)]
        out.append(torch.cat([w @ v[:, c] for w, c in zip(weights, columns, strict=True)], dim=1))
        start += length
    return torch.cat(out)


def norm(module: Any, s: Tensor) -> Tensor:
    """Layer norm, or norm without a mean (RMSNorm), with a module's own weights."""
    bias = getattr(module, "bias", None)
    weighted: Tensor = unweighted_norm(module, s) * module.weight
    return weighted if bias is None else weighted + bias


def unweighted_norm(module: Any, s: Tensor) -> Tensor:
    """What the norm of a module returns before its weights."""
    eps: float = module.eps
    if isinstance(module, torch.nn.RMSNorm):
        return s * ((s * s).mean(-1, keepdim=True) + eps).rsqrt()
    return F.layer_norm(s, (s.shape[-1],), eps=eps)


def lora(level: Adapter, index: int, site: str, x: Tensor) -> Tensor:
    """The term that one adapter adds to a linear with input x; 0 if it does not edit the site."""
    method: Any = level.method
    if method.type not in ("lora", "dora", "biased_lora") or site not in method.targets:
        return torch.zeros(())
    if index not in (method.layers or range(99)):
        return torch.zeros(())
    at = list(method.layers).index(index) if method.layers else index
    a, b = level.tensors[f"{site}.a"][at], level.tensors[f"{site}.b"][at]
    root = method.r**0.5 if method.rank_stabilised else method.r
    added: Tensor = (x @ a.T) @ b.T * (method.alpha / root)
    return added


def dora(level: Adapter, index: int, site: str, module: Any) -> Tensor:
    """The factor of one adapter on the output of a linear without its bias; 1 if it has none."""
    method: Any = level.method
    layers = getattr(method, "layers", None) or tuple(range(99))
    if method.type != "dora" or site not in method.targets or index not in layers:
        return torch.ones(())
    with torch.no_grad():  # a constant to the gradient
        rows = module.weight + lora(level, index, site, torch.eye(module.in_features)).T
    factor: Tensor = level.tensors[f"{site}.magnitude"][layers.index(index)] / rows.norm(dim=1)
    return factor


def vera(level: Adapter, index: int, site: str, x: Tensor) -> Tensor:
    """The term that one adapter adds to a linear with input x; 0 if it does not edit the site."""
    from peft.tuners.vera.model import _kaiming_init

    method: Any = level.method
    layers = getattr(method, "layers", None) or tuple(range(99))
    if method.type != "vera" or site not in method.targets or index not in layers:
        return torch.zeros(())
    d, b = (level.tensors[f"{site}.{part}"][layers.index(index)] for part in ("d", "b"))
    widths_out = [level.tensors[f"{name}.b"].shape[1] for name in method.targets]
    inner = max(widths_out) if "ffn_up" in method.targets else 0
    width_in = max(x.shape[1], inner if "ffn_down" in method.targets else 0)
    generator = torch.Generator().manual_seed(method.projection_seed)
    down = _kaiming_init((method.r, width_in), generator)[:, : x.shape[1]]
    up = _kaiming_init((max(widths_out), method.r), generator)[: len(b)]
    added: Tensor = ((x @ down.T) * d) @ up.T * b
    return added


def ia3(level: Adapter, index: int, site: str, *, is_input: bool) -> Tensor:
    """The factor of one adapter on the input or output of a linear; 1 if it has none there."""
    method: Any = level.method
    if method.type != "ia3" or site not in method.targets:
        return torch.ones(())
    layers = method.layers or tuple(range(99))
    if index not in layers or is_input != (site in method.feedforward):
        return torch.ones(())
    return level.tensors[site][layers.index(index)].flatten()


def norm_edit(level: Adapter, index: int, site: str, part: str) -> Tensor:
    """What one adapter adds to a bias, or to the weight of a layer norm; 0 if it has nothing."""
    method: Any = level.method
    layers = (0,) if site == "entry" else getattr(method, "layers", None) or tuple(range(99))
    if method.type not in ("bitfit", "ln_tuning", "biased_lora") or index not in layers:
        return torch.zeros(())
    tensor = level.tensors.get(f"{site}.{part}")
    return torch.zeros(()) if tensor is None else tensor[layers.index(index)]


def bottleneck(level: Adapter, index: int, site: str, x: Tensor) -> Tensor:
    """The term that one adapter adds to the residual stream; 0 if it does not edit the site."""
    method: Any = level.method
    if f"{site}.down" not in level.tensors:
        return torch.zeros(())
    get = {part: level.tensors[f"{site}.{part}"][index] for part in ("down", "up")}
    get |= {part: level.tensors[f"{site}.{part}"][index] for part in ("down_bias", "up_bias")}
    act = {"relu": torch.relu, "swish": F.silu, "gelu": F.gelu}[method.activation]
    thin = act(x @ get["down"].T + get["down_bias"])
    added: Tensor = method.scaling * (thin @ get["up"].T + get["up_bias"])
    return added


Levels = Sequence[Adapter]
"""The adapters of a stack, the lowest first."""


def linear(levels: Levels, index: int, site: str, module: Any, inner: Tensor) -> Tensor:
    """A linear of a layer with what every adapter does to it."""
    bias = torch.zeros(()) if module.bias is None else module.bias
    for level in levels:
        inner = inner * ia3(level, index, site, is_input=True)
    y: Tensor = inner @ module.weight.T + bias
    for level in levels:
        y = y + vera(level, index, site, inner)
        y = (y + lora(level, index, site, inner)) * ia3(level, index, site, is_input=False)
        y = (y - bias) * dora(level, index, site, module) + bias
        y = y + norm_edit(level, index, site, "bias")
    return y


def tuned(levels: Levels, index: int, site: str, module: Any, s: Tensor) -> Tensor:
    """A norm of a layer with what every adapter does to it."""
    y, plain = norm(module, s), unweighted_norm(module, s)
    for level in levels:
        y = y + plain * norm_edit(level, index, site, "weight")
        y = y + norm_edit(level, index, site, "bias")
    return y


def edited(
    levels: Levels, index: int, site: str, inner: Tensor, read: Any = lambda inner: inner
) -> Tensor:
    """A state of the residual stream with the bottleneck of every adapter, which reads `read`."""
    for level in levels:
        inner = inner + bottleneck(level, index, site, read(inner))
    return inner


def entered(levels: Levels, index: int, x: Tensor) -> Tensor:
    """What enters a layer, as every adapter changes it."""
    for level in levels:
        x = x + x * norm_edit(level, index, "entry", "weight")
        x = x + norm_edit(level, index, "entry", "bias")
    return x


def prefix(levels: Levels, index: int, n_layers: int) -> Any:
    """Keys and values of all prefixes of a stack in a layer; None if there are none."""
    flat = [
        level.tensors["prefix"].view(level.tensors["prefix"].shape[0], n_layers, 2, -1)
        for level in levels
        if level.method.type == "prefix"
    ]
    return tuple(torch.cat([one[:, index, i] for one in flat]) for i in (0, 1)) if flat else None


def layer(bert: Any, index: int, x: Tensor, adapter: Adapter | None) -> Tensor:
    """One BERT layer over one sequence `[n, h]`, with every adapter of the stack."""
    block, levels = bert.encoder.layer[index], adapter.stack if adapter else ()
    at = levels, index
    x = entered(*at, x)
    own, heads = block.attention.self, block.attention.self.num_attention_heads
    q, k, v = (linear(*at, site, getattr(own, site), x) for site in ("query", "key", "value"))
    before = prefix(*at, bert.config.num_hidden_layers)
    mixed = attention(q, k, v, [len(x)], heads, [before])
    r = linear(*at, "attention_output", block.attention.output.dense, mixed)
    attended = block.attention.output.LayerNorm
    x = tuned(*at, "attention_layer_norm", attended, edited(*at, "after_attention", r) + x)
    r = F.gelu(linear(*at, "ffn_up", block.intermediate.dense, x))
    r = edited(*at, "after_ffn", linear(*at, "ffn_down", block.output.dense, r))
    last = block.output.LayerNorm
    summed = r + edited(*at, "ffn_residual", x)
    summed = edited(*at, "ffn_norm", summed, lambda s: norm(last, s))
    return tuned(*at, "ffn_layer_norm", last, summed)


def hidden(backbone: Backbone, adapter: Adapter | None, inputs: TokenSequence) -> Tensor:
    """Last hidden state of one sequence, `[n, h]`, from its `words` if given."""
    bert: Any = backbone.model
    start = adapter.num_virtual_tokens if adapter else 0
    places = torch.arange(start, start + len(inputs))
    parts = bert.embeddings
    words = (
        parts.word_embeddings.weight[list(inputs.input_ids)]
        if inputs.inputs_embeds is None
        else inputs.inputs_embeds
    )
    x = (
        words
        + parts.token_type_embeddings.weight[list(inputs.token_type_ids)]
        + parts.position_embeddings.weight[places]
    )
    x = F.layer_norm(
        x, (x.shape[-1],), parts.LayerNorm.weight, parts.LayerNorm.bias, parts.LayerNorm.eps
    )
    for index in range(backbone.geometry.layers):
        x = layer(bert, index, x, adapter)
    return x


def logits(backbone: Backbone, adapter: Adapter, inputs: TokenSequence) -> Tensor:
    """Logits of one mean-pooled classification, `[C]`."""
    pooled = hidden(backbone, adapter, inputs).mean(0)
    return adapter.head["classifier.weight"] @ pooled + adapter.head["classifier.bias"]
