"""Dropout whose numbers follow from an adapter's seed and a row's index in its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DropoutSeed:
    """What one adapter's dropout is drawn from: its own batch, whoever else is in the forward.

    Attributes:
        seed: Differs from step to step.
        lengths: Tokens of every row of the adapter's whole batch.
        rows: Its rows at hand, in packed order.
    """

    seed: int
    lengths: Sequence[int]
    rows: Sequence[int]


class Dropout:
    """Dropout that depends on an adapter's seed and on a row's place in its whole batch, never on
    how the batch was cut or on who else is there.

    Every draw is made for all rows of the whole batch and the rows at hand are picked from it, so
    one process, two processes and any gradient accumulation drop the same numbers.

    Args:
        draws: Of each owner in the packed batch, in order.
        device: Where the draws are used.
    """

    def __init__(self, draws: Sequence[DropoutSeed], device: torch.device | str = "cpu") -> None:
        self._sources = [_Source(each) for each in draws]
        self._device = device

    def of(self, owners: Sequence[int]) -> Dropout:
        """The noise of some owners alone; each goes on with its own draws."""
        some = Dropout([], self._device)
        some._sources = [self._sources[owner] for owner in owners]
        return some

    def drop_tokens(self, x: Tensor, p: float) -> Tensor:
        """Drops elements of `[t, d]`, the tokens of all owners, one after another; what fills a
        batch up after them stays."""
        return self._drop(x, p, "tokens")

    def drop_rows(self, x: Tensor, p: float) -> Tensor:
        """Drops elements of `[n, d]`, one line for each row of all owners."""
        return self._drop(x, p, "rows")

    def _drop(self, x: Tensor, p: float, unit: str) -> Tensor:
        if p == 0.0:
            return x
        drawn = torch.cat([source.draw(unit, x.shape[-1]) for source in self._sources])
        drawn = F.pad(drawn, (0, 0, 0, len(x) - len(drawn)), value=1.0)
        return x * (drawn.to(self._device) >= p) / (1.0 - p)


class _Source:
    def __init__(self, draws: DropoutSeed) -> None:
        self._generator = torch.Generator().manual_seed(draws.seed)
        starts = (0, *accumulate(draws.lengths))
        self._total = {"tokens": starts[-1], "rows": len(draws.lengths)}
        tokens = torch.cat([torch.arange(starts[row], starts[row + 1]) for row in draws.rows])
        self._index = {"tokens": tokens, "rows": torch.tensor(draws.rows)}

    def draw(self, unit: str, width: int) -> Tensor:
        """Uniform numbers for the rows at hand, `[t, width]` or `[n, width]`."""
        whole = torch.rand(self._total[unit], width, generator=self._generator)
        return whole.index_select(0, self._index[unit])
