"""Padded batches: rows of equally many tokens, for runtimes that know no packed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .packing import Packed


@dataclass(frozen=True)
class PaddedRows(Packed):
    """n rows of t tokens, row after row as T = n * t tokens, padding after each text.

    Attributes:
        mask: True where a token is no padding, `[n, t]`.
    """

    mask: Tensor | None = None

    @classmethod
    def of(
        cls, input_ids: Tensor, token_type_ids: Tensor, mask: Tensor, first_positions: Tensor
    ) -> Self:
        """Places rows one after the other.

        Args:
            input_ids, token_type_ids: int64 `[n, t]` each.
            mask: True where a token is no padding, `[n, t]`.
            first_positions: Position id of each row's first token, int64 `[n]` or `[1]`.
        """
        positions = first_positions[:, None] + torch.arange(input_ids.shape[1])
        return cls(
            input_ids=input_ids.flatten(),
            position_ids=positions.expand(input_ids.shape).flatten(),
            token_type_ids=token_type_ids.flatten(),
            lengths=(),
            owners=(),
            order=(),
            masked=(),
            mask=mask,
        )

    @property
    def n_sequences(self) -> int:
        return self._mask.shape[0]

    def firsts(self, states: Tensor) -> Tensor:
        return self._by_row(states)[:, 0]

    def means(self, states: Tensor) -> Tensor:
        weights = self._mask.to(states.dtype)[..., None]
        return (self._by_row(states) * weights).sum(1) / weights.sum(1)

    def tokens_of(self, states: Tensor, span: tuple[int, int]) -> Tensor:
        """States of all tokens, `[T, h]`, padding included; rows are never divided."""
        return states

    def _by_row(self, states: Tensor) -> Tensor:
        """States `[T, h]` as `[n, t, h]`."""
        return states.view(*self._mask.shape, -1)

    @property
    def _mask(self) -> Tensor:
        if self.mask is None:
            raise ValueError("padded rows need a mask")
        return self.mask
