"""The choice of a threshold on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..metrics.base import Array


def best_threshold(
    values: Array,
    gains: Array,
    score: Callable[[Array], Array],
    default: float,
    ends: Sequence[float] = (),
) -> float:
    """Returns the threshold with the highest score; of several, the one nearest to the default.

    Candidates are the midpoints between neighbouring values, the default and the ends.

    Args:
        values: The values that the threshold divides, `[n]`.
        gains: Counts that each value adds if it lies above the threshold, `[n, k]`.
        score: From the summed counts above each candidate, `[c, k]`, to its score, `[c]`.
        default: The threshold if no other is better.
        ends: Candidates below or above all values, if those are allowed.
    """
    known = np.unique(values)
    candidates = np.unique(np.array([default, *ends, *(known[1:] + known[:-1]) / 2]))
    order = np.argsort(values)
    above = np.zeros((len(values) + 1, gains.shape[1]))
    above[:-1] = gains[order][::-1].cumsum(0)[::-1]
    scores = score(above[np.searchsorted(values[order], candidates)])
    best = candidates[scores >= scores.max() - 1e-12]
    return float(best[np.abs(best - default).argmin()])
