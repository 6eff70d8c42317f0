"""Attention over packed sequences: the one place that knows where a text ends.

Its plain twin is a loop over sequences and heads in `tests/reference.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

VECTOR = 16
"""Float32 numbers that a processor computes at once, where it has the widest of vectors."""


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences of like length that attend in one padded call.

    Attributes:
        queries: Token of each query, `[n * Lq]`.
        keys: Token, or R + prefix token, of each key, `[n * Lk]`.
        rows: n.
        mask: True where a key is real, `[n, 1, 1, Lk]`; None where all are.
    """

    queries: Tensor
    keys: Tensor
    rows: int
    mask: Tensor | None


@dataclass(frozen=True)
class AttentionPlan:
    """Who attends to whom in a packed batch, worked out once and used by every layer.

    Padding lives here alone: sequences of like length are gathered into a few padded groups, and a
    prefix is a list of further key tokens that any number of sequences may point at.

    Attributes:
        groups: The padded calls.
        places: For each token, its place in the groups' outputs laid end to end, `[R]`; R is T, or
            more where the batch is filled up with copies of its last token.
    """

    groups: tuple[AttentionGroup, ...]
    places: Tensor

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        prefixes: Sequence[tuple[int, int]] | None = None,
        device: torch.device | str = "cpu",
        filled: int | None = None,
    ) -> AttentionPlan:
        """Plans a batch.

        Args:
            lengths: Tokens of each sequence, in packed order; T in all.
            prefixes: For each sequence, start and length of its run among the prefix tokens.
            device: Where the index tensors go.
            filled: R, the tokens with those that fill the batch up; T where left out.
        """
        n_tokens = sum(lengths)
        filled = n_tokens if filled is None else filled
        size = torch.tensor(lengths)
        start = torch.cumsum(size, 0) - size
        prefix = (
            torch.tensor(prefixes)
            if prefixes is not None
            else torch.zeros(len(size), 2, dtype=torch.long)
        )
        groups, places, laid = [], torch.empty(filled, dtype=torch.long), 0
        for members in _alike(
            [(n + p, n) for n, p in zip(lengths, prefix[:, 1].tolist(), strict=True)]
        ):
            n, s, p = size[members, None], start[members, None], prefix[members]
            columns = torch.arange(int(n.max()))[None]
            real = columns < n
            queries = torch.where(real, s + columns, s)
            place = laid + torch.arange(queries.numel()).view_as(queries)
            places[queries[real]] = place[real]
            laid += queries.numel()
            first, ahead = p[:, :1], p[:, 1:]
            columns = torch.arange(_whole(int((n + ahead).max())))[None]
            real = columns < n + ahead
            keys = torch.where(columns < ahead, filled + first + columns, s + columns - ahead)
            keys = torch.where(real, keys, s)
            mask = None if bool(real.all()) else real[:, None, None].to(device)
            groups.append(
                AttentionGroup(
                    queries.flatten().to(device), keys.flatten().to(device), len(members), mask
                )
            )
        places[n_tokens:] = places[n_tokens - 1]
        return cls(tuple(groups), places.to(device))


def _alike(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups sequences so that padding stays small and calls stay few.

    Args:
        sizes: Keys and queries of each sequence.

    Returns:
        Lists of sequence indices; within one, no sequence is padded by more than a quarter plus
        eight keys.
    """
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and sizes[i][0] <= 1.25 * sizes[groups[-1][0]][0] + 8:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _whole(keys: int) -> int:
    """Keys filled up to whole vectors of the processor, unless few are left over: torch's attention
    on a CPU takes the rest one by one, and 13 keys three times as long as 16."""
    rest = keys % VECTOR
    return keys if rest <= VECTOR // 4 else keys - rest + VECTOR


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, heads: int, scaling: float
) -> Tensor:
    """Scaled dot-product attention within each sequence of a packed batch.

    Args:
        query: `[R, heads * d]`.
        key, value: `[R + P, heads * d]`, the P prefix tokens after the text's.
        plan: Who attends to whom.
        heads: Number of heads.
        scaling: Factor on the scores.

    Returns:
        `[R, heads * d]`.
    """
    width, dtype = query.shape[-1], query.dtype
    if query.device.type == "cpu" and dtype != torch.float32:
        # torch's half-precision attention on a CPU is ten times slower than its float32 one.
        query, key, value = query.float(), key.float(), value.float()

    def gather(x: Tensor, index: Tensor, rows: int) -> Tensor:
        return x.index_select(0, index).view(rows, -1, heads, width // heads).transpose(1, 2)

    # Under autocast torch would take its half-precision attention after all.
    with torch.autocast(query.device.type, enabled=False):
        outputs = [
            F.scaled_dot_product_attention(
                gather(query, group.queries, group.rows),
                gather(key, group.keys, group.rows),
                gather(value, group.keys, group.rows),
                attn_mask=group.mask,
                scale=scaling,
            )
            .transpose(1, 2)
            .reshape(-1, width)
            for group in plan.groups
        ]
    return torch.cat(outputs).index_select(0, plan.places).to(dtype)
