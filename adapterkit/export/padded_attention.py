"""Attention within the rows of a padded batch, by torch's own operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.disentangled import PositionTable
from ..ops.relative_bias import RelativeBias

LEAST = torch.finfo(torch.float32).min
"""Added to the scores of keys that are not attended to. A token of padding may attend to nothing,
and minus infinity would make it no number, which other tokens would read."""


class RowStates(NamedTuple):
    """Queries, keys and values of rows, keys and values after those of the prefix.

    Attributes:
        query: `[n, heads, t, d]`.
        key, value: `[n, heads, P + t, d]`.
    """

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class PaddedAttention:
    """The attention of a batch: every token attends to its row, without padding, and its prefix.

    Attributes:
        mask: True for a token that is no padding, `[n, t]`.
        prefix_mask: True for a prefix token of a row's adapter, `[n, P]`.
        prefixes: Keys and values of every layer before each row, `[n, L, 2, P, h]`; None without.
    """

    mask: Tensor
    prefix_mask: Tensor
    prefixes: Tensor | None

    def with_prefixes(
        self, query: Tensor, key: Tensor, value: Tensor, layer: int, heads: int
    ) -> RowStates:
        """States of the batch's tokens by row, with the keys and values of the prefix.

        Args:
            query, key, value: Of all tokens, `[n * t, heads * d]` each; keys and values are
                narrower if several heads of queries share each of their heads.
            layer: Number of the layer.
            heads: Number of heads of queries.
        """
        width = query.shape[-1] // heads
        states = (x.view(*self.mask.shape, -1, width).transpose(1, 2) for x in (query, key, value))
        q, k, v = states
        if self.prefixes is not None:
            before = self.prefixes[:, layer].unflatten(-1, (-1, width)).transpose(2, 3)
            k, v = (torch.cat([before[:, i], x], dim=2) for i, x in enumerate((k, v)))
        shared = query.shape[-1] // key.shape[-1]
        if shared > 1:
            k, v = (x[:, :, None].expand(-1, -1, shared, -1, -1).flatten(1, 2) for x in (k, v))
        return RowStates(q, k, v)

    @property
    def _attended(self) -> Tensor:
        """True for a key that its row attends to, `[n, 1, 1, P + t]`."""
        return torch.cat([self.prefix_mask, self.mask], dim=1)[:, None, None]

    def added(self, window: int | None, bias: RelativeBias | None) -> Tensor:
        """What is added to the scaled scores, `[n, 1 or heads, 1 or t, P + t]`.

        Args:
            window: Greatest distance of a token that is attended to; None for no limit.
            bias: What is added by distance, if anything is.
        """
        t, before = self.mask.shape[1], self.prefix_mask.shape[1]
        seen = self._attended
        distances = (torch.arange(before + t) - before - torch.arange(t)[:, None])[None]
        is_prefix = (torch.arange(before + t) < before)[None, None]
        if window is not None:
            seen = seen & (is_prefix | (distances.abs() <= window))[:, None]
        if bias is None:
            return torch.zeros(()).masked_fill(~seen, LEAST)
        by_distance = bias.mask(distances, is_prefix, torch.ones_like(is_prefix))
        return by_distance.masked_fill(~seen, LEAST)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, added: Tensor, scaling: float
    ) -> Tensor:
        """The mixed values of all tokens, `[n * t, heads * d]`.

        Args:
            query, key, value: As of `RowStates`.
            added: What is added to the scaled scores.
            scaling: Factor on the scores.
        """
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=scaling)
        return _by_token(mixed)

    def near(self, buckets: Tensor) -> Tensor:
        """Buckets of the distances 0 to t - 1 and 0 to 1 - t, int64 `[2, t]`.

        Args:
            buckets: Bucket of each distance, int64 `[2 N - 1]`; that of 0 is in the middle.
        """
        places, zero = torch.arange(self.mask.shape[1]), len(buckets) // 2
        return buckets[torch.stack([zero + places, zero - places])]

    def positions(self, table: PositionTable, buckets: Tensor, heads: int) -> Tensor:
        """Rows of a table for the distances of `near`, `[n or 1, heads, 2 t, d]`.

        Args:
            table: Keys or queries of positions; its own rows are as `near` orders them.
            buckets: As of `near`.
            heads: Number of heads.
        """
        n, t = self.mask.shape
        if table.is_own:
            rows = table.rows.view(2, n, t, heads, -1)
        else:
            rows = table.rows[self.near(buckets)].view(2, 1, t, heads, -1)
        return rows.permute(1, 3, 0, 2, 4).flatten(2, 3)

    def attend_by_position(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        positions: tuple[Tensor | None, Tensor | None],
        scaling: float,
    ) -> Tensor:
        """As `attend`, with scores of content and distance (`ops.disentangled`).

        Args:
            query, key, value: As of `RowStates`.
            positions: Keys and queries of positions; None for scores without the term.
            scaling: Factor on the scores.
        """
        t, before = self.mask.shape[1], self.prefix_mask.shape[1]
        difference = torch.arange(t)[:, None] - torch.arange(t)
        index = torch.where(difference >= 0, difference, t - difference)
        index = index.expand(*query.shape[:2], t, t)
        virtual, own = key[:, :, :before], key[:, :, before:]
        scores, (keys, queries) = query @ own.transpose(-1, -2), positions
        if keys is not None:
            scores = scores + (query @ keys.transpose(-1, -2)).gather(-1, index)
        if queries is not None:
            of_keys = (own @ queries.transpose(-1, -2)).gather(-1, index.transpose(-1, -2))
            scores = scores + of_keys.transpose(-1, -2)
        scores = torch.cat([query @ virtual.transpose(-1, -2), scores], dim=-1)
        weights = (scores * scaling).masked_fill(~self._attended, LEAST).softmax(-1)
        return _by_token(weights @ value)


def _by_token(mixed: Tensor) -> Tensor:
    """Rows `[n, heads, t, d]` as tokens `[n * t, heads * d]`."""
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)
