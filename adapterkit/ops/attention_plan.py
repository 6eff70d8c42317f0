"""Which tokens of a packed batch attend to which: computed once, used by every layer."""

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

from .bucketing import bucket_for_attention, bucket_power_of_two, bucket_size
from .launch_table import LaunchTable, Slot
from .prefix_tokens import Prefixes
from .relative_bias import RelativeBias

if TYPE_CHECKING:
    from .kernels.key_columns import KeySpans


@dataclass(frozen=True)
class AttentionGroup:
    """n sequences of similar length that attend in one padded call.

    Attributes:
        queries: Index of each query among the batch's tokens, `[n * Lq]`.
        keys: Index of each key: a token, or R + prefix token, `[n * Lk]`.
        rows: n.
        mask: True for a key that is attended to, false for padding and for tokens beyond the
            window, `[n, 1, 1, Lk]` or `[n, 1, Lq, Lk]`; None if there are neither. Or what is added
            to the scaled scores, float32 `[n, heads, Lq, Lk]`.
    """

    queries: Tensor
    keys: Tensor
    rows: int
    mask: Tensor | None


@dataclass(frozen=True)
class AttentionPlan:
    """Which tokens attend to which: every token to those of its sequence and of its prefix.

    Attributes:
        lengths: Tokens of each sequence, in packed order; T in all.
        prefixes: First prefix token of each sequence, and their number.
        device: Where the attention is computed.
        padded_tokens: R: T, or more if the batch is padded. Nobody reads the states of padding.
        ragged_table: The plan for flash attention in a launch table; None if the batch has none.
    """

    lengths: tuple[int, ...]
    prefixes: tuple[tuple[int, int], ...]
    device: torch.device | str
    padded_tokens: int
    ragged_table: RaggedTable | None = None

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        prefixes: Sequence[tuple[int, int]] | None = None,
        device: torch.device | str = "cpu",
        padded_tokens: int | None = None,
        table: LaunchTable | None = None,
        prefix_tokens: Prefixes | None = None,
    ) -> AttentionPlan:
        """Plans a batch; without prefixes and without padding if they are omitted.

        Args:
            lengths, prefixes, device, padded_tokens: As above.
            table: The launch table of the batch, if its kernels read one.
            prefix_tokens: The prefix tokens.
        """
        spans = ((0, 0),) * len(lengths) if prefixes is None else tuple(prefixes)
        padded = sum(lengths) if padded_tokens is None else padded_tokens
        addresses = None if prefix_tokens is None else prefix_tokens.addresses
        ragged = None if table is None else RaggedTable.of(table, lengths, spans, padded, addresses)
        return cls(tuple(lengths), spans, device, padded, ragged)

    @cached_property
    def ragged(self) -> Ragged:
        """The plan for flash attention, which needs no padding."""
        ragged = self.ragged_table
        if ragged is None:
            table = LaunchTable()
            ragged = RaggedTable.of(table, self.lengths, self.prefixes, self.padded_tokens)
            table.upload(self.device)
        return ragged.view()

    @cached_property
    def derived(self) -> dict[str, Any]:
        """What other operators derive from the plan, once for all layers."""
        return {}

    @cached_property
    def spans(self) -> KeySpans:
        """The plan for the compiled kernel, which needs no padding."""
        from .kernels.key_columns import KeySpans

        first, count = np.array(self.prefixes).T
        starts = np.array((0, *accumulate(self.lengths)))
        return KeySpans(starts, first + self.padded_tokens, np.ascontiguousarray(count))

    @property
    def has_prefixes(self) -> bool:
        """Whether any sequence has a prefix."""
        return any(count for _, count in self.prefixes)

    def padded(self, window: int | None = None, bias: RelativeBias | None = None) -> PaddedPlan:
        """The plan for padded calls: sequences of similar length are gathered into few groups.

        The keys of a prefix are further indices, and any number of sequences may share them.

        Args:
            window: Greatest distance of a token that is attended to; None for no limit.
            bias: What is added to scores by distance, if anything is.
        """
        key = window, bias
        if key not in self._padded_plans:
            self._padded_plans[key] = self._padded_plan(window, bias)
        return self._padded_plans[key]

    @cached_property
    def _padded_plans(self) -> dict[tuple[int | None, RelativeBias | None], PaddedPlan]:
        return {}

    def _padded_plan(self, window: int | None, bias: RelativeBias | None) -> PaddedPlan:
        n_tokens, padded = sum(self.lengths), self.padded_tokens
        lengths = torch.tensor(self.lengths)
        starts = torch.cumsum(lengths, 0) - lengths
        prefixes = torch.tensor(self.prefixes)
        groups, index, end = [], torch.empty(padded, dtype=torch.long), 0
        sizes = [(n + p, n) for n, (_, p) in zip(self.lengths, self.prefixes, strict=True)]
        for members in group_by_size(sizes):
            n, start, prefix = lengths[members, None], starts[members, None], prefixes[members]
            columns = rows = torch.arange(int(n.max()))[None]
            is_real = columns < n
            queries = torch.where(is_real, start + columns, start)
            output = end + torch.arange(queries.numel()).view_as(queries)
            index[queries[is_real]] = output[is_real]
            end += queries.numel()
            first, count = prefix[:, :1], prefix[:, 1:]
            columns = torch.arange(bucket_for_attention(int((n + count).max())))[None]
            is_real = columns < n + count
            own = start + columns - count
            keys = torch.where(columns < count, padded + first + columns, own)
            keys = torch.where(is_real, keys, start)
            seen = is_real[:, None, None]
            distance = (columns - count)[:, None] - rows[..., None]
            is_prefix = (columns < count)[:, None]
            if window is not None:
                is_near = is_prefix | (distance.abs() <= window)
                # Padding attends to something, or its outputs would not be numbers.
                seen = seen & (is_near | (rows[..., None] >= n[..., None]))[:, None]
            if bias is not None:
                seen = bias.mask(distance, is_prefix, seen)
            mask = None if bias is None and bool(seen.all()) else seen.to(self.device)
            indices = (queries.flatten().to(self.device), keys.flatten().to(self.device))
            groups.append(AttentionGroup(*indices, len(members), mask))
        index[n_tokens:] = index[n_tokens - 1]
        return PaddedPlan(tuple(groups), index.to(self.device))


@dataclass(frozen=True)
class Ragged:
    """Sequences of any lengths for flash attention (Dao 2023).

    Attributes:
        starts: First query of each sequence, then their number, int32 `[N + 1]`.
        key_starts: First key of each sequence, then their number, int32 `[N + 1]`.
        keys: Index of each key: a token, or R + prefix token; None without prefixes.
        prefix_addresses: Address of each key that is a prefix token's (`Prefixes.addresses`); None
            if the prefix tokens are in one tensor with the others.
        max_queries: At least as many as the queries of any sequence.
        max_keys: At least as many as the keys of any sequence.
    """

    starts: Tensor
    key_starts: Tensor
    keys: Tensor | None
    prefix_addresses: Tensor | None
    max_queries: int
    max_keys: int

    def gather_keys(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values sequence after sequence, each after its prefix.

        Args:
            key, value: `[R, h]`; `[R + P, h]` without `prefix_addresses`.
            layer: The layer, from 0.
        """
        if self.keys is None:
            return key, value
        if self.prefix_addresses is None:
            return key.index_select(0, self.keys), value.index_select(0, self.keys)
        from .gpu_kernels.gather import gather

        return gather(key, value, self.keys, self.prefix_addresses, layer)


@dataclass(frozen=True)
class RaggedTable:
    """A `Ragged` in a launch table, rounded up to one of few sizes by sequences without tokens.

    Attributes:
        table: The launch table.
        starts, key_starts, keys, prefix_addresses, max_queries, max_keys: As of `Ragged`.
    """

    table: LaunchTable
    starts: Slot
    key_starts: Slot
    keys: Slot | None
    prefix_addresses: Slot | None
    max_queries: int
    max_keys: int

    @classmethod
    def of(
        cls,
        table: LaunchTable,
        lengths: Sequence[int],
        prefixes: Sequence[tuple[int, int]],
        padded_tokens: int,
        addresses: NDArray[np.int64] | None = None,
    ) -> RaggedTable:
        """Plans a batch.

        Args:
            table: The launch table that is written.
            lengths, prefixes, padded_tokens: As of `AttentionPlan`.
            addresses: Address of each prefix token.
        """
        sizes = np.array(lengths)
        first, count = np.array(prefixes).T
        capacity = bucket_power_of_two(len(sizes)) + 1

        def starts_of(sizes: NDArray[np.int64]) -> Slot:
            starts = np.full(capacity, sizes.sum(), np.int32)
            starts[: len(sizes)] = np.cumsum(sizes) - sizes
            return table.add(starts)

        keys = prefix_addresses = None
        if count.any():
            # For each sequence two ranges of keys: its prefix, then its own tokens.
            begins = np.stack([padded_tokens + first, np.cumsum(sizes) - sizes], axis=1).ravel()
            n = np.stack([count, sizes], axis=1).ravel()
            offset = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
            index = (np.repeat(begins, n) + offset).astype(np.int32)
            keys = table.add(index, bucket_size(len(index)))
            if addresses is not None:
                of_tokens = np.zeros(padded_tokens, np.int64)
                of_keys = np.concatenate([of_tokens, addresses])[index]
                prefix_addresses = table.add(of_keys, bucket_size(len(index)))
        max_queries, max_keys = (
            table.add_constant(bucket_power_of_two(int(n.max()))) for n in (sizes, sizes + count)
        )
        starts = starts_of(sizes), starts_of(sizes + count)
        return cls(table, *starts, keys, prefix_addresses, max_queries, max_keys)

    def view(self) -> Ragged:
        """The plan on the device, after the table was uploaded."""
        keys, addresses = (
            None if slot is None else self.table.view(slot)
            for slot in (self.keys, self.prefix_addresses)
        )
        starts, key_starts = self.table.view(self.starts), self.table.view(self.key_starts)
        return Ragged(starts, key_starts, keys, addresses, self.max_queries, self.max_keys)


@dataclass(frozen=True)
class PaddedPlan:
    """Padded calls that compute a packed batch.

    Attributes:
        groups: The calls.
        index: Index of each token in the concatenated outputs of the groups, `[R]`.
    """

    groups: tuple[AttentionGroup, ...]
    index: Tensor


def group_by_size(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups sequences so that there is little padding and few calls.

    Args:
        sizes: Keys and queries of each sequence.

    Returns:
        Lists of sequence indices. In one list, no sequence is padded by more than a quarter plus
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
