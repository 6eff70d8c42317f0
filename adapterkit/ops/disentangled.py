"""Disentangled attention (He et al. 2021): scores of content, and of content and distance.

Semantics, for tokens i and j of one text with the bucket b of the distance i - j:
`score = q_i . k_j + q_i . K_b + Q_b . k_j`, where K and Q are the tables of positions. A prefix key
has no position, so its score is `q_i . k_j`. The reference is transformers' DeBERTa.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .bucketing import WIDTH
from .position_plan import PositionPlan


@dataclass(frozen=True)
class PositionTable:
    """Keys or queries of positions.

    Attributes:
        rows: `[M, heads * d]`.
        is_own: Whether every sequence has rows of its own, as `PositionPlan.own_rows` places them;
            otherwise there is one row for each bucket.
    """

    rows: Tensor
    is_own: bool


def disentangled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: PositionPlan,
    tables: tuple[PositionTable | None, PositionTable | None],
    heads: int,
    scaling: float,
) -> Tensor:
    """Attention within each sequence of a packed batch, with scores of distances.

    Args:
        query: `[R, heads * d]`.
        key, value: `[R + P, heads * d]`: the batch's tokens, then the P prefix tokens.
        positions: The plan.
        tables: Keys and queries of positions; None for scores without the term.
        heads: Number of heads.
        scaling: Factor on the scores.

    Returns:
        `[R, heads * d]`.
    """
    of_positions = (table.rows for table in tables if table is not None)
    if _is_compiled((query, key, value, *of_positions), query.shape[1] // heads):
        return _compiled_attention(query, key, value, positions, tables, heads, scaling)
    dtype, width = query.dtype, query.shape[1]
    if query.device.type == "cpu":  # half precision is slow there
        query, key, value = query.float(), key.float(), value.float()

    def split(x: Tensor, index: Tensor) -> Tensor:
        """Rows of x as `[n, heads, L, d]`."""
        picked = x.index_select(0, index.flatten()).to(query.dtype)
        return picked.view(*index.shape, heads, width // heads).transpose(1, 2)

    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        for group in positions.groups:
            q, k, v = (split(x, group.tokens) for x in (query, key, value))
            scores = q @ k.transpose(-1, -2)
            distances = group.distances.expand(-1, heads, -1, -1)
            for table, x, index in zip(
                tables, (q, k), (distances, distances.transpose(-1, -2)), strict=True
            ):
                if table is not None:
                    rows = split(table.rows, group.own_rows if table.is_own else group.buckets)
                    term = (x @ rows.transpose(-1, -2)).gather(-1, index)
                    scores = scores + (term if x is q else term.transpose(-1, -2))
            scores = torch.cat([q @ split(key, group.prefixes).transpose(-1, -2), scores], dim=-1)
            weights = (scores * scaling).masked_fill(~group.mask, -torch.inf).softmax(-1)
            mixed = weights @ torch.cat([split(value, group.prefixes), v], dim=2)
            outputs.append(mixed.transpose(1, 2).reshape(-1, width))
    return torch.cat(outputs).index_select(0, positions.index).to(dtype)


def _is_compiled(tensors: Sequence[Tensor], width: int) -> bool:
    """Whether the compiled kernel, which has no gradients, computes heads of a width."""
    on_cpu = tensors[0].device.type == "cpu"
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return on_cpu and width % WIDTH == 0 and not needs_gradient


def _compiled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: PositionPlan,
    tables: tuple[PositionTable | None, PositionTable | None],
    heads: int,
    scaling: float,
) -> Tensor:
    """`disentangled_attention` by the compiled kernel."""
    from .kernels.disentangled import attend_by_position

    keys, queries = (
        None
        if table is None
        else (table.rows, positions.rows(is_own=table.is_own, descend=descend))
        for table, descend in zip(tables, (True, False), strict=True)
    )
    sizes = heads, scaling
    return attend_by_position(
        query, key, value, positions.spans, positions.lines, (keys, queries), *sizes
    )
