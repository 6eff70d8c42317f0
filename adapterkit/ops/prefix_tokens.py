"""The virtual tokens of a batch, in the memory of its adapters' tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Prefixes:
    """P virtual tokens of L layers, one prefix after another.

    Args:
        tensors: Keys and values of each prefix, `[L, 2, tokens, h]`.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, `[P, h]` each."""
        keys, values = self._concatenated[index]
        return keys, values

    @cached_property
    def _concatenated(self) -> Tensor:
        return torch.cat(list(self._tensors), dim=2)

    @cached_property
    def addresses(self) -> NDArray[np.int64]:
        """Address of each token's keys and values, `[P]`; there lie `[L, 2, h]` in float32."""
        return np.concatenate(
            [
                prefix.data_ptr() + np.arange(len(prefix)) * prefix[0].nbytes
                for prefix in self._by_token
            ]
        )

    @cached_property
    def _by_token(self) -> list[Tensor]:
        """Prefixes as `[tokens, L, 2, h]`, which is how a trained one lies in memory."""
        return [
            prefix.permute(2, 0, 1, 3).to(torch.float32).contiguous() for prefix in self._tensors
        ]
