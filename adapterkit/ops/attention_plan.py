"""Who attends to whom in a packed batch: worked out once, used by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bucketing import bucket_power_of_two, bucket_size, whole_vectors
from .launch_table import LaunchTable, Slot
from .prefix_tokens import Prefixes

if TYPE_CHECKING:
    from .kernels.attention import Windows


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

    Attributes:
        lengths: Tokens of each sequence, in packed order; T in all.
        prefixes: For each sequence, start and length of its run among the prefix tokens.
        device: Where the attention is computed.
        filled: R: T, or more where the batch is filled up; what fills it up attends to nothing that
            matters, and nobody sees what comes of it.
        table: What flash attention is told, on a sheet.
    """

    lengths: tuple[int, ...]
    prefixes: tuple[tuple[int, int], ...]
    device: torch.device | str
    filled: int
    table: RaggedTable | None = None

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        prefixes: Sequence[tuple[int, int]] | None = None,
        device: torch.device | str = "cpu",
        filled: int | None = None,
        sheet: LaunchTable | None = None,
        tokens: Prefixes | None = None,
    ) -> AttentionPlan:
        """Plans a batch; no prefixes and nothing filled up where they are left out.

        Args:
            lengths, prefixes, device, filled: As above.
            sheet: Of the batch, where it is computed as a whole.
            tokens: The prefix tokens.
        """
        windows = ((0, 0),) * len(lengths) if prefixes is None else tuple(prefixes)
        filled = sum(lengths) if filled is None else filled
        places = None if tokens is None else tokens.places
        table = None if sheet is None else RaggedTable.of(sheet, lengths, windows, filled, places)
        return cls(tuple(lengths), windows, device, filled, table)

    @cached_property
    def ragged(self) -> Ragged:
        """The same for flash attention, which pads nothing either."""
        table = self.table
        if table is None:
            table = RaggedTable.of(LaunchTable(), self.lengths, self.prefixes, self.filled)
            table.sheet.upload(self.device)
        return table.view()

    @cached_property
    def windows(self) -> Windows:
        """The same for the compiled kernel, which pads nothing."""
        from .kernels.attention import Windows

        first, ahead = np.array(self.prefixes).T
        starts = np.array((0, *accumulate(self.lengths)))
        return Windows(starts, first + self.filled, np.ascontiguousarray(ahead))

    @cached_property
    def padded(self) -> PaddedPlan:
        """The same as padded calls: sequences of like length gathered into few groups, a prefix a
        list of further key tokens that any number of sequences may point at."""
        n_tokens, filled = sum(self.lengths), self.filled
        size = torch.tensor(self.lengths)
        start = torch.cumsum(size, 0) - size
        prefix = torch.tensor(self.prefixes)
        groups, places, laid = [], torch.empty(filled, dtype=torch.long), 0
        sizes = [(n + p, n) for n, (_, p) in zip(self.lengths, self.prefixes, strict=True)]
        for members in _alike(sizes):
            n, s, p = size[members, None], start[members, None], prefix[members]
            columns = torch.arange(int(n.max()))[None]
            real = columns < n
            queries = torch.where(real, s + columns, s)
            place = laid + torch.arange(queries.numel()).view_as(queries)
            places[queries[real]] = place[real]
            laid += queries.numel()
            first, ahead = p[:, :1], p[:, 1:]
            columns = torch.arange(whole_vectors(int((n + ahead).max())))[None]
            real = columns < n + ahead
            keys = torch.where(columns < ahead, filled + first + columns, s + columns - ahead)
            keys = torch.where(real, keys, s)
            mask = None if bool(real.all()) else real[:, None, None].to(self.device)
            index = (queries.flatten().to(self.device), keys.flatten().to(self.device))
            groups.append(AttentionGroup(*index, len(members), mask))
        places[n_tokens:] = places[n_tokens - 1]
        return PaddedPlan(tuple(groups), places.to(self.device))


@dataclass(frozen=True)
class Ragged:
    """Sequences of any lengths as flash attention takes them (Dao 2023).

    Attributes:
        starts: First query of each sequence, then their number, int32 `[N + 1]`.
        key_starts: Likewise for keys.
        keys: Token, or R + prefix token, of each key; None where they are the queries' tokens.
        places: Address of each key that is a prefix token's (`Prefixes.places`); None where prefix
            tokens lie after the others.
        longest: At least the queries of any sequence.
        longest_keys: At least the keys of any.
    """

    starts: Tensor
    key_starts: Tensor
    keys: Tensor | None
    places: Tensor | None
    longest: int
    longest_keys: int

    def gathered(self, key: Tensor, value: Tensor, at: int) -> tuple[Tensor, Tensor]:
        """Keys and values of each sequence in turn, its prefix tokens' before its own.

        Args:
            key, value: `[R, h]`.
            at: The layer.
        """
        if self.keys is None:
            return key, value
        if self.places is None:
            return key.index_select(0, self.keys), value.index_select(0, self.keys)
        from .kernels.gather import gather

        return gather(key, value, self.keys, self.places, at)


@dataclass(frozen=True)
class RaggedTable:
    """The same on a sheet, in one of few sizes; sequences without tokens fill it up.

    Attributes:
        sheet: The sheet.
        starts, key_starts, keys, places, longest, longest_keys: As of `Ragged`.
    """

    sheet: LaunchTable
    starts: Slot
    key_starts: Slot
    keys: Slot | None
    places: Slot | None
    longest: int
    longest_keys: int

    @classmethod
    def of(
        cls,
        sheet: LaunchTable,
        lengths: Sequence[int],
        prefixes: Sequence[tuple[int, int]],
        filled: int,
        prefix_places: NDArray[np.int64] | None = None,
    ) -> RaggedTable:
        """Plans a batch (see `AttentionPlan`).

        Args:
            sheet: Where it is told.
            lengths, prefixes, filled: As there.
            prefix_places: Address of each prefix token.
        """
        sizes = np.array(lengths)
        first, ahead = np.array(prefixes).T
        room = bucket_power_of_two(len(sizes)) + 1

        def starts(of: Any) -> Slot:
            ends = np.full(room, of.sum(), np.int32)
            ends[: len(of)] = np.cumsum(of) - of
            return sheet.add(ends)

        keys = places = None
        if ahead.any():
            begins = np.cumsum(sizes) - sizes
            # A sequence's virtual tokens, then its own.
            at = np.stack([filled + first, begins], axis=1).ravel()
            n = np.stack([ahead, sizes], axis=1).ravel()
            nth = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
            index = (np.repeat(at, n) + nth).astype(np.int32)
            keys = sheet.add(index, bucket_size(len(index)))
            if prefix_places is not None:
                of_tokens = np.zeros(filled, np.int64)
                every = np.concatenate([of_tokens, prefix_places])
                places = sheet.add(every[index], bucket_size(len(index)))
        longest, longest_keys = (
            sheet.add_constant(bucket_power_of_two(int(n.max()))) for n in (sizes, sizes + ahead)
        )
        both = starts(sizes), starts(sizes + ahead)
        return cls(sheet, *both, keys, places, longest, longest_keys)

    def view(self) -> Ragged:
        """The plan where the sheet was sent."""
        keys, places = (
            None if entry is None else self.sheet.view(entry) for entry in (self.keys, self.places)
        )
        starts, key_starts = self.sheet.view(self.starts), self.sheet.view(self.key_starts)
        return Ragged(starts, key_starts, keys, places, self.longest, self.longest_keys)


@dataclass(frozen=True)
class PaddedPlan:
    """Padded calls that compute a packed batch.

    Attributes:
        groups: The calls.
        places: For each token, its place in the groups' outputs laid end to end, `[R]`.
    """

    groups: tuple[AttentionGroup, ...]
    places: Tensor


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
