"""Bootstrap confidence intervals of a metric (Efron and Tibshirani 1993)."""

from __future__ import annotations

import math

import numpy as np

from .base import Metric, Predictions

RESAMPLES = 1000
ROWS = 10_000_000
"""Most rows that are drawn in total for a metric without counts: some seconds of correlations."""


def interval(
    metric: Metric, predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a metric.

    Each resample draws n of the n rows with replacement and computes the metric. For more than
    10,000 rows a metric without `counts` has fewer resamples, but at least 100. The interval
    reflects the choice of the rows, not the seed of the training.

    Args:
        metric: The metric.
        predictions: The rows, at least one.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        The 2.5th and the 97.5th percentile of the resamples that leave it defined; NaN if none
        does.
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
    defined = [value for value in values if math.isfinite(value)]
    if not defined:
        return math.nan, math.nan
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)
