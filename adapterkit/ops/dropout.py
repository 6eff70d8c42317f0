"""Dropout whose random numbers depend only on an adapter's seed and a row's index in its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DropoutSeed:
    """The seed of one adapter's dropout in one step, and the rows it is for.

    Attributes:
        seed: Of the step.
        lengths: Tokens of every row of the adapter's whole batch.
        rows: The rows of that batch in this forward, in packed order.
    """

    seed: int
    lengths: Sequence[int]
    rows: Sequence[int]


class Dropout:
    """Dropout that depends on an adapter's seed and on a row's index in the adapter's whole batch.

    It does not depend on how the batch is split or on the other adapters in the forward: numbers
    are drawn for all rows of the whole batch, and those of the rows in the forward are selected. So
    one process, two processes and any gradient accumulation drop the same elements.

    Args:
        seeds: Of each owner in the packed batch, in order.
        device: Where the dropout is applied.
    """

    def __init__(self, seeds: Sequence[DropoutSeed], device: torch.device | str = "cpu") -> None:
        self._sources = [_Source(seed) for seed in seeds]
        self._device = device

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators that the masks are drawn from, one for each owner."""
        return [source.generator for source in self._sources]

    def select(self, owners: Sequence[int]) -> Dropout:
        """The dropout of some owners; their generators stay shared with this one."""
        selected = Dropout([], self._device)
        selected._sources = [self._sources[owner] for owner in owners]
        return selected

    def drop_tokens(self, x: Tensor, p: float) -> Tensor:
        """Drops elements of `[t, d]`: the tokens of all owners, one after another.

        Tokens after them, which pad a batch, stay as they are.
        """
        return self._drop(x, p, "tokens")

    def drop_rows(self, x: Tensor, p: float) -> Tensor:
        """Drops elements of `[n, d]`: one vector for each row of all owners."""
        return self._drop(x, p, "rows")

    def _drop(self, x: Tensor, p: float, unit: str) -> Tensor:
        if p == 0.0:
            return x
        uniform = torch.cat([source.draw(unit, x.shape[-1]) for source in self._sources])
        uniform = F.pad(uniform, (0, 0, 0, len(x) - len(uniform)), value=1.0)
        return x * (uniform.to(self._device) >= p) / (1.0 - p)


class _Source:
    """The generator of one owner."""

    def __init__(self, seed: DropoutSeed) -> None:
        self.generator = torch.Generator().manual_seed(seed.seed)
        starts = (0, *accumulate(seed.lengths))
        self._total = {"tokens": starts[-1], "rows": len(seed.lengths)}
        tokens = torch.cat([torch.arange(starts[row], starts[row + 1]) for row in seed.rows])
        self._index = {"tokens": tokens, "rows": torch.tensor(seed.rows)}

    def draw(self, unit: str, width: int) -> Tensor:
        """Uniform numbers for the rows in the forward, `[t, width]` or `[n, width]`."""
        uniform = torch.rand(self._total[unit], width, generator=self.generator)
        return uniform.index_select(0, self._index[unit])
