"""Which distances the sequences of a packed batch need: computed once, used by every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .attention_plan import AttentionPlan, group_by_size

if TYPE_CHECKING:
    from .kernels.key_columns import KeySpans
    from .kernels.position_lines import LineSpans

MOST_SCORES = 2**22
"""The most scores of a head in a group, unless one sequence has more: it bounds the memory."""


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

    A sequence of L tokens has 2 L - 1 distances, so all its buckets have place in one or two tables
    with one row for each of its tokens. Edits of tokens can thus edit the rows of their positions.

    Args:
        plan: The batch.
        buckets: Bucket of each distance, int64 `[2 N - 1]`; that of i - j is at N - 1 + i - j.
    """

    def __init__(self, plan: AttentionPlan, buckets: Tensor) -> None:
        self._plan, every = plan, buckets.cpu().numpy()
        longest = (len(every) + 1) // 2
        if max(plan.lengths) > longest:
            raise ValueError(f"{max(plan.lengths)} tokens, but distances of {longest}")
        # The buckets of a length, ascending, and which of them each distance has, `[2 n - 1]`.
        self._by_length: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {
            n: np.unique(every[longest - n : longest + n - 1], return_inverse=True)
            for n in set(plan.lengths)
        }

    @cached_property
    def own_buckets(self) -> Tensor:
        """The bucket of each row of a table with rows for each sequence, `[R]` or `[2 R]`.

        Row t belongs to token t, and so does row R + t, if some sequence has more buckets than
        tokens.
        """
        plan = self._plan
        n_tables = 1 + any(len(found) > n for n, (found, _) in self._by_length.items())
        table = np.zeros(n_tables * plan.padded_tokens, np.int64)
        for n, start in zip(plan.lengths, self._starts, strict=True):
            found, _ = self._by_length[n]
            table[self._own_rows(start, n)] = found
        return torch.from_numpy(table).to(plan.device)

    @property
    def _starts(self) -> Iterator[int]:
        """First token of each sequence."""
        return accumulate(self._plan.lengths[:-1], initial=0)

    def _own_rows(self, start: int, n: int) -> NDArray[np.int64]:
        """The row of each bucket of n tokens from `start` on, in a table with rows for each
        sequence."""
        place = np.arange(len(self._by_length[n][0]))
        return start + np.where(place < n, place, self._plan.padded_tokens + place - n)

    @property
    def spans(self) -> KeySpans:
        """The keys of each sequence, for the compiled kernel."""
        return self._plan.spans

    @cached_property
    def lines(self) -> LineSpans:
        """The lines of each sequence, for the compiled kernel."""
        from .kernels.position_lines import LineShape, LineSpans

        shapes = {n: LineShape.of(index) for n, (_, index) in self._by_length.items()}
        return LineSpans.of([shapes[n] for n in self._plan.lengths])

    def rows(self, *, is_own: bool, descend: bool) -> NDArray[np.int64]:
        """The row of each bucket of each sequence in a table of positions.

        Args:
            is_own: Whether every sequence has rows of its own.
            descend: Whether the last bucket of a sequence comes first.
        """
        key = is_own, descend
        if key not in self._rows:
            lengths = self._plan.lengths
            rows = [
                self._own_rows(start, n) if is_own else self._by_length[n][0]
                for n, start in zip(lengths, self._starts, strict=True)
            ]
            self._rows[key] = np.concatenate([one[::-1] if descend else one for one in rows])
        return self._rows[key]

    @cached_property
    def _rows(self) -> dict[tuple[bool, bool], NDArray[np.int64]]:
        return {}

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
        for row, (values, index) in enumerate(found):
            length, count_of = int(n[row]), len(values)
            buckets[row, :count_of] = torch.from_numpy(values)
            own[row, :count_of] = torch.from_numpy(self._own_rows(int(starts[row]), length))
            token = torch.arange(length)
            distance = token[:, None] - token[None]
            distances[row, 0, :length, :length] = torch.from_numpy(index)[distance + length - 1]
        parts = (tokens, virtual, mask, distances, buckets, own)
        return PositionGroup(*(part.to(plan.device) for part in parts))
