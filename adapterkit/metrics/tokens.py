"""Metrics of the hidden tokens of a text: the one guessed, and how surprising the right one was."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions

MOST = 700.0
"""Mean surprise beyond which perplexity is no longer a number."""


def right(p: Predictions) -> Array:
    """Tokens of each row that were guessed right, and all of them, `[n, 2]`."""
    rows = zip(p.predicted, p.references, strict=True)
    pairs = [
        (sum(a["token"] == b["token"] for a, b in zip(said, goal, strict=True)), len(goal))
        for said, goal in rows
    ]
    return np.array(pairs, dtype=float)


def surprise(p: Predictions) -> Array:
    """Sum of the right tokens' negative log-probabilities, and their number, `[n, 2]`."""
    rows = [[guess["surprise"] for guess in said] for said in p.predicted]
    return np.array([(sum(row), len(row)) for row in rows], dtype=float)


def share(sums: Array) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def perplexity(sums: Array) -> float:
    """e to the mean surprise."""
    return math.exp(min(share(sums), MOST)) if sums[1] else math.nan


class Tokens(MetricKind):
    type: ClassVar[str] = "tokens"
    features: ClassVar[dict[str, Any]] = {
        "predictions": [{"token": "int64", "surprise": "float64"}],
        "references": [{"token": "int64"}],
    }
    defaults: ClassVar[tuple[str, ...]] = ("accuracy", "perplexity")
    metrics: ClassVar[dict[str, Metric]] = {
        "accuracy": Metric(lambda p: share(right(p).sum(0)), counts=right, combine=share),
        "perplexity": Metric(
            lambda p: perplexity(surprise(p).sum(0)), counts=surprise, combine=perplexity
        ),
    }
