"""One weight of each of many adapters, in the forms that products read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .bucketing import bucket_power_of_two
from .launch_table import LaunchTable
from .low_rank_gpu import WeightTable

if TYPE_CHECKING:
    from .kernels.low_rank import WeightPointers


class StackedWeights:
    """One weight of each of G adapters, for L layers of the backbone; ranks may differ.

    Args:
        tensors: `[L, ...]` of each adapter.
        dim: The dimension of the rank, counted from the end.
    """

    def __init__(self, tensors: Sequence[Tensor], dim: int) -> None:
        self.tensors = tensors
        self._dim = dim

    @cached_property
    def _stacked(self) -> tuple[Tensor, ...]:
        if len(self.tensors) == 1:
            return self.tensors[0].unsqueeze(1).unbind(0)
        # Smaller ranks are padded with zeros, which changes no product.
        others = (0, 0) * (-self._dim - 1)
        padded = [F.pad(t, (*others, 0, self._max_rank - t.shape[self._dim])) for t in self.tensors]
        return torch.stack(padded, dim=1).unbind(0)

    @cached_property
    def _max_rank(self) -> int:
        return max(t.shape[self._dim] for t in self.tensors)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Rank of each adapter's weight, `[G]`."""
        return np.array([t.shape[self._dim] for t in self.tensors])

    @cached_property
    def base_addresses(self) -> NDArray[np.int64]:
        """Address of each adapter's weights, layer after layer, `[G]`."""
        return np.array([t.data_ptr() for t in self._contiguous])

    @cached_property
    def addresses(self) -> NDArray[np.int64]:
        """Address of each adapter's weight of each layer, `[L, G]`."""
        steps = np.array([t.stride(0) * t.element_size() for t in self._contiguous])
        layers = np.arange(len(self._contiguous[0]))[:, None]
        addresses: NDArray[np.int64] = self.base_addresses + layers * steps
        return addresses

    def pointers(self, layer: int, by_rank: bool) -> WeightPointers:
        """The weights of one layer for the compiled kernels.

        Args:
            layer: Which of the L layers.
            by_rank: Whether the weights are `[r, d]`, and not `[d, r]`.
        """
        from .kernels.low_rank import WeightPointers

        addresses = self.addresses[layer]
        return WeightPointers(addresses, self.ranks, self._max_rank, by_rank, self._contiguous)

    def add_to(self, table: LaunchTable, biases: StackedWeights | None) -> WeightTable:
        """Adds the weights of all layers, and their biases, to a launch table."""
        capacity = bucket_power_of_two(len(self.tensors))
        return WeightTable(
            table.add(self.base_addresses, capacity),
            None if biases is None else table.add(biases.base_addresses, capacity),
            table.add(self.ranks.astype(np.int32), capacity),
            table.add_constant(bucket_power_of_two(self._max_rank)),
        )

    @cached_property
    def _contiguous(self) -> list[Tensor]:
        """The tensors in contiguous float32; no copies as a rule."""
        return [
            t if t.dtype is torch.float32 and t.is_contiguous() else t.float().contiguous()
            for t in self.tensors
        ]

    @cached_property
    def single(self) -> tuple[Tensor, ...]:
        """The weights of the only adapter, layer by layer."""
        return self.tensors[0].unbind(0)

    def layer(self, index: int) -> Tensor:
        """The weights of all adapters for one of the L layers, `[G, ...]`."""
        return self._stacked[index]
