"""The virtual tokens of a batch, where they lie in its adapters' tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Prefixes:
    """P virtual tokens of L layers, those of one prefix after those of another.

    Args:
        tensors: Keys and values of each prefix, `[L, 2, tokens, h]`.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors

    def layer(self, at: int) -> tuple[Tensor, Tensor]:
        """Keys and values at one of the layers, `[P, h]` each."""
        keys, values = self._together[at]
        return keys, values

    @cached_property
    def _together(self) -> Tensor:
        return torch.cat(list(self._tensors), dim=2)

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Address of each token's numbers, `[P]`: `[L, 2, h]` float32."""
        return np.concatenate(
            [
                prefix.data_ptr() + np.arange(len(prefix)) * prefix[0].nbytes
                for prefix in self._plain
            ]
        )

    @cached_property
    def _plain(self) -> list[Tensor]:
        """Prefixes token after token, as a trained one lies in memory, `[tokens, L, 2, h]`."""
        return [
            prefix.permute(2, 0, 1, 3).to(torch.float32).contiguous() for prefix in self._tensors
        ]
