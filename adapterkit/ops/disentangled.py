"""Disentangled attention (He et al. 2021): scores of content, and of content and distance.

Semantics, for tokens i and j of one text with the bucket b of the distance i - j:
`score = q_i . k_j + q_i . K_b + Q_b . k_j`, where K and Q are the tables of positions. A prefix key
has no position, so its score is `q_i . k_j`. The reference is transformers' DeBERTa.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .attention_plan import AttentionPlan, group_by_size

MOST_SCORES = 2**22
"""The most scores of a head in a group, unless one sequence has more: it bounds the memory."""


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


@dataclass(frozen=True)
class PositionGroup:
    """n sequences of similar length, padded to Lq tokens, P prefix tokens and U buckets.

    Attributes:
        tokens: Index of each token, `[n, Lq]`; padding repeats the first.
        prefixes: Index of each prefix key, `[n, P]`; padding repeats the first token.
        mask: True for a key that is attended to, `[n, 1, 1, P + Lq]`.
        distances: Which of its U buckets the distance i - j has, `[n, 1, Lq, Lq]`.
        buckets: The buckets, `[n, U]`.
        own_rows: The row of each bucket in a table with rows for each sequence, `[n, U]`.
    """

    tokens: Tensor
    prefixes: Tensor
    mask: Tensor
    distances: Tensor
    buckets: Tensor
    own_rows: Tensor


class PositionPlan:
    """Which buckets of distances the sequences of a packed batch need.

    A sequence of L tokens has 2 L - 1 distances, so all its buckets have place in two tables with
    one row for each of its tokens. An edit of tokens can thus edit the rows of their positions.

    Args:
        plan: The batch.
        buckets: Bucket of each distance, int64 `[2 N - 1]`; that of i - j is at N - 1 + i - j.
    """

    def __init__(self, plan: AttentionPlan, buckets: Tensor) -> None:
        self._plan, self._all = plan, buckets.cpu()
        self._longest = (len(buckets) + 1) // 2
        if max(plan.lengths) > self._longest:
            raise ValueError(f"{max(plan.lengths)} tokens, but distances of {self._longest}")
        self._by_length = {n: self._of_length(n) for n in set(plan.lengths)}

    def _of_length(self, n: int) -> tuple[Tensor, Tensor]:
        """The buckets of a length, ascending, and which of them each distance has, `[2 n - 1]`."""
        near = self._all[self._longest - n : self._longest + n - 1]
        found, inverse = torch.unique(near, return_inverse=True)
        return found, inverse

    @cached_property
    def own_buckets(self) -> Tensor:
        """The bucket of each row of a table with rows for each sequence, `[2 R]`.

        Row t belongs to token t, and so does row R + t.
        """
        plan = self._plan
        tables = torch.zeros(2, plan.padded_tokens, dtype=torch.long)
        start = 0
        for n in plan.lengths:
            found, _ = self._by_length[n]
            tables[0, start : start + len(found[:n])] = found[:n]
            tables[1, start : start + len(found[n:])] = found[n:]
            start += n
        return tables.flatten().to(plan.device)

    @cached_property
    def groups(self) -> tuple[PositionGroup, ...]:
        """Groups of sequences that are computed at once."""
        plan = self._plan
        sizes = [(n + p, n) for n, (_, p) in zip(plan.lengths, plan.prefixes, strict=True)]
        groups = []
        for members in group_by_size(sizes):
            longest = max(sizes[member][0] for member in members)
            step = max(1, MOST_SCORES // longest**2)
            parts = [members[first : first + step] for first in range(0, len(members), step)]
            groups += [self._group(part) for part in parts]
        return tuple(groups)

    @cached_property
    def index(self) -> Tensor:
        """Index of each token in the concatenated outputs of the groups, `[R]`."""
        plan, end = self._plan, 0
        index = torch.zeros(plan.padded_tokens, dtype=torch.long, device=plan.device)
        for group in self.groups:
            places = end + torch.arange(group.tokens.numel(), device=plan.device)
            # Padding repeats the first token, whose right place is written last.
            index[group.tokens.flatten().flip(0)] = places.flip(0)
            end += group.tokens.numel()
        index[sum(plan.lengths) :] = index[sum(plan.lengths) - 1]
        return index

    def _group(self, members: Sequence[int]) -> PositionGroup:
        plan = self._plan
        lengths, prefixes = torch.tensor(plan.lengths), torch.tensor(plan.prefixes)
        starts = (torch.cumsum(lengths, 0) - lengths)[members, None]
        n, first, count = lengths[members, None], prefixes[members, :1], prefixes[members, 1:]
        column, before = torch.arange(int(n.max()))[None], torch.arange(int(count.max()))[None]
        tokens = torch.where(column < n, starts + column, starts)
        virtual = torch.where(before < count, plan.padded_tokens + first + before, starts)
        mask = torch.cat([before < count, column < n], dim=1)[:, None, None]
        found = [self._by_length[plan.lengths[member]] for member in members]
        width = max(len(buckets) for buckets, _ in found)
        buckets = torch.zeros(len(members), width, dtype=torch.long)
        own = torch.zeros_like(buckets)
        distances = torch.zeros(len(members), 1, column.shape[1], column.shape[1], dtype=torch.long)
        for row, (values, inverse) in enumerate(found):
            length, start = int(n[row]), int(starts[row])
            buckets[row, : len(values)] = values
            place = torch.arange(len(values))
            own[row, : len(values)] = start + torch.where(
                place < length, place, plan.padded_tokens + place - length
            )
            token = torch.arange(length)
            distances[row, 0, :length, :length] = inverse[token[:, None] - token[None] + length - 1]
        parts = (tokens, virtual, mask, distances, buckets, own)
        return PositionGroup(*(part.to(plan.device) for part in parts))


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
