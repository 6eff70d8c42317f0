"""How far a score may be trusted: intervals from rows drawn again (Efron and Tibshirani 1993)."""

from __future__ import annotations

import numpy as np

from .base import Metric, Predictions

RESAMPLES = 1000
ROWS = 10_000_000
"""Most rows that are drawn where a metric has no counts: seconds of correlations."""


def interval(
    metric: Metric, predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a metric.

    As many rows as there are are drawn with replacement, and the metric taken of them, `resamples`
    times. Metrics without `counts` are taken fewer times, but 100 at least, of splits of more than
    10,000 rows. The interval says what another draw of such rows would have changed; it knows
    nothing of another seed of the training.

    Args:
        metric: The metric.
        predictions: The rows, at least one.
        resamples: How often rows are drawn.
        seed: Of the draws.

    Returns:
        Ends of the interval: the 2.5th and 97.5th percentile.
    """
    rng, n = np.random.default_rng(seed), len(predictions)
    if metric.counts is None:
        resamples = min(resamples, max(100, ROWS // n))
        values = [metric.score(predictions.rows(rng.integers(n, size=n))) for _ in range(resamples)]
    else:
        counts = metric.counts(predictions)
        values = [
            metric.combine(np.bincount(rng.integers(n, size=n), minlength=n) @ counts)
            for _ in range(resamples)
        ]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)
