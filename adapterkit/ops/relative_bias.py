"""Relative positions as numbers that are added to the scores of attention (Raffel et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .bucketing import WIDTH


@dataclass(frozen=True)
class BiasTable:
    """Numbers for each head and distance in the memory of the CPU.

    Attributes:
        values: Float32 `[heads, n]`, contiguous.
        zero: Column of the distance 0.
    """

    values: Tensor
    zero: int

    @property
    def span(self) -> tuple[int, int]:
        """Address of the first head's number for the distance 0, and bytes from head to head; both
        are 0 if there are no numbers."""
        if not self.values.numel():
            return 0, 0
        return self.values.data_ptr() + 4 * self.zero, 4 * self.values.shape[1]


NO_BIAS = BiasTable(torch.empty(0, 0), 0)


class RelativeBias:
    """What is added to the scaled score of a query and a key of one text, by their distance.

    A prefix token has no position, so nothing is added to the scores of its key. AdapterHub does
    so in T5 and DeBERTa.

    Args:
        values: One number for each head and distance, `[heads, 2 N - 1]`; column N - 1 + j - i is
            that of the query i and the key j.
    """

    def __init__(self, values: Tensor) -> None:
        self.longest = (values.shape[1] + 1) // 2
        # Loops read whole vectors, so up to `WIDTH` numbers beyond the last key of a text.
        self._values = F.pad(values.detach().float(), (0, WIDTH)).contiguous()

    def table(self, scaling: float) -> BiasTable:
        """The numbers as compiled loops add them to scores, before these are scaled.

        Args:
            scaling: Factor on the scores.
        """
        return BiasTable(self._values / scaling, self.longest - 1)

    def mask(self, distances: Tensor, is_prefix: Tensor, is_attended: Tensor) -> Tensor:
        """A mask that is added to the scaled scores of n sequences.

        Args:
            distances: j - i of each query i and key j, int64 `[n, Lq, Lk]`.
            is_prefix: Whether a key is that of a prefix token, bool `[n, 1, Lk]`.
            is_attended: Whether a key is attended to, bool `[n, 1, 1, Lk]` or `[n, 1, Lq, Lk]`.

        Returns:
            Float32 `[n, heads, Lq, Lk]` on the device of the bias.
        """
        device, last = self._values.device, self.longest - 1
        columns = distances.clamp(-last, last) + last
        added = self._values[:, columns.to(device)].transpose(0, 1)
        added = added.masked_fill(is_prefix[:, None].to(device), 0.0)
        return added.masked_fill(~is_attended.to(device), -torch.inf)
