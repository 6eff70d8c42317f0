"""Thresholds chosen on rows that were held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..metrics.base import Array


def best_cut(
    values: Array,
    gains: Array,
    worth: Callable[[Array], Array],
    default: float,
    ends: Sequence[float] = (),
) -> float:
    """Where a cut through values is worth most; of several, the one nearest to the default.

    Cuts half-way between neighbouring values are tried, the default, and the ends.

    Args:
        values: What is cut, `[n]`.
        gains: What each value that lies above the cut brings, `[n, k]`.
        worth: From the gains above each cut, summed, `[c, k]`, to how good the cut is, `[c]`.
        default: The cut where nothing speaks for another.
        ends: Cuts below or above all values, where those are allowed.
    """
    known = np.unique(values)
    cuts = np.unique(np.array([default, *ends, *(known[1:] + known[:-1]) / 2]))
    order = np.argsort(values)
    above = np.zeros((len(values) + 1, gains.shape[1]))
    above[:-1] = gains[order][::-1].cumsum(0)[::-1]
    worths = worth(above[np.searchsorted(values[order], cuts)])
    best = cuts[worths >= worths.max() - 1e-12]
    return float(best[np.abs(best - default).argmin()])
