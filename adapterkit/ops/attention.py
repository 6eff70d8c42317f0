"""Attention over packed sequences: no token attends beyond its own sequence and its prefix.

The reference is a loop over sequences and heads in `tests/helpers/reference.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_plan import AttentionPlan, PaddedPlan, Ragged
from .bucketing import WIDTH
from .relative_bias import RelativeBias

LONG = 768
"""Tokens of a sequence from which on keys and values are faster read in tiles."""


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    heads: int,
    scaling: float,
    window: int | None = None,
    bias: RelativeBias | None = None,
) -> Tensor:
    """Scaled dot-product attention within each sequence of a packed batch.

    Args:
        query: `[R, heads * d]`.
        key, value: `[R + P, heads * d]`: the batch's tokens, then the P prefix tokens. Or gathered
            already by `Ragged.gather_keys`.
        plan: Which tokens attend to which.
        heads: Number of heads.
        scaling: Factor on the scores.
        window: Greatest distance of a token that is attended to; None for no limit. Prefix tokens
            are attended to at any distance, like the global tokens of Longformer (Beltagy et al.
            2020).
        bias: What is added to scores by distance, if anything is; without a window.

    Returns:
        `[R, heads * d]`.

    Raises:
        ValueError: A sequence is longer than the bias is for, or there is a window as well.
    """
    if bias is not None and window is not None:
        raise ValueError("a relative bias is not computed within a window")
    if bias is not None and max(plan.lengths) > bias.longest:
        raise ValueError(f"{max(plan.lengths)} tokens, but relative positions of {bias.longest}")
    if window is not None and max(plan.lengths) <= window + 1:
        window = None
    on_cpu = query.device.type == "cpu"
    flash = uses_flash_attention(query.device, query.dtype, query.shape[-1] // heads)
    if flash and bias is None and (window is None or not plan.has_prefixes):
        return _ragged_attention(query, key, value, plan.ragged, heads, scaling, window)
    if on_cpu and query.shape[-1] // heads % WIDTH == 0:
        apply: Any = _Compiled.apply
        output: Tensor = apply(query, key, value, plan, heads, scaling, window, bias)
        return output
    padded = plan.padded(window, bias)
    if on_cpu and query.dtype != torch.float32:
        # On a CPU, torch's half-precision attention is ten times slower than its float32 one.
        full = query.float(), key.float(), value.float()
        return _padded_attention(*full, padded, heads, scaling).to(query.dtype)
    return _padded_attention(query, key, value, padded, heads, scaling)


@cache
def uses_flash_attention(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether flash attention computes these heads.

    It does in half precision on an NVIDIA GPU of the Ampere generation or a later one.

    Args:
        device: Of the tensors.
        dtype: Of the tensors.
        width: Of one head.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or width % 8:
        return False
    try:
        from torch.nn.attention import varlen  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _ragged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ragged: Ragged,
    heads: int,
    scaling: float,
    window: int | None,
) -> Tensor:
    """`packed_attention` by flash attention."""
    from torch.nn.attention.varlen import varlen_attn

    width = query.shape[-1] // heads
    # Flash attention scales by the width itself. No family has needed another scaling yet.
    query = query if scaling == width**-0.5 else query * (scaling * width**0.5)
    if ragged.prefix_addresses is None:
        key, value = ragged.gather_keys(key, value, 0)
    q, k, v = (x.reshape(-1, heads, width) for x in (query, key, value))
    starts = ragged.starts, ragged.key_starts
    distances = (-1, -1) if window is None else (window, window)
    output: Any = varlen_attn(
        q, k, v, *starts, ragged.max_queries, ragged.max_keys, window_size=distances
    )
    states: Tensor = output.reshape(len(query), -1)
    return states


class _Compiled(torch.autograd.Function):
    """`packed_attention` by the compiled kernels, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: AttentionPlan,
        heads: int,
        scaling: float,
        window: int | None,
        bias: RelativeBias | None,
    ) -> Tensor:
        is_long = bias is None and max(plan.lengths) >= LONG
        if window is None and not is_long:
            from .kernels.attention import attend

            output = attend(query, key, value, plan.spans, heads, scaling, bias)
        elif window is None:
            from .kernels.long_attention import attend_in_tiles

            output = attend_in_tiles(query, key, value, plan.spans, heads, scaling)
        else:
            from .kernels.local_attention import attend_locally

            output = attend_locally(query, key, value, plan.spans, window, heads, scaling)
        ctx.save_for_backward(query, key, value, output)
        ctx.arguments = plan.spans, window, heads, scaling, bias
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        spans, window, heads, scaling, bias = ctx.arguments
        inputs = gradients[0], output, query, key, value, spans
        if window is None:
            from .kernels.attention import attend_backward

            to_inputs = attend_backward(*inputs, heads, scaling, bias)
        else:
            from .kernels.local_attention import attend_locally_backward

            to_inputs = attend_locally_backward(*inputs, window, heads, scaling)
        return *to_inputs, None, None, None, None, None


def _padded_attention(
    query: Tensor, key: Tensor, value: Tensor, padded: PaddedPlan, heads: int, scaling: float
) -> Tensor:
    """`packed_attention` by torch's attention, group by group."""
    width = query.shape[-1]

    def gather(x: Tensor, index: Tensor, rows: int) -> Tensor:
        return x.index_select(0, index).view(rows, -1, heads, width // heads).transpose(1, 2)

    # Under autocast torch would take its half-precision attention after all.
    with torch.autocast(query.device.type, enabled=False):
        outputs = [
            F.scaled_dot_product_attention(
                gather(query, group.queries, group.rows),
                gather(key, group.keys, group.rows),
                gather(value, group.keys, group.rows),
                attn_mask=_in_dtype(group.mask, query.dtype),
                scale=scaling,
            )
            .transpose(1, 2)
            .reshape(-1, width)
            for group in padded.groups
        ]
    return torch.cat(outputs).index_select(0, padded.index)


def _in_dtype(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask that is added to scores in the dtype of the queries, as torch wants it."""
    return mask if mask is None or mask.dtype == torch.bool else mask.to(dtype)
