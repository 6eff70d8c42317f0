"""Metrics of masked tokens: the predicted token, and the surprise of the right one."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions

MOST = 700.0
"""Largest mean surprise; beyond it the perplexity is too large for a float."""


def count_right_tokens(p: Predictions) -> Array:
    """For each row the tokens that are predicted right, and all tokens, `[n, 2]`."""
    counts = [
        (sum(a["token"] == b["token"] for a, b in zip(*pair, strict=True)), len(pair[1]))
        for pair in zip(p.predicted, p.references, strict=True)
    ]
    return np.array(counts, dtype=float)


def surprise(p: Predictions) -> Array:
    """For each row the sum of the right tokens' negative log-probabilities, and their number,
    `[n, 2]`."""
    rows = [[token["surprise"] for token in row] for row in p.predicted]
    return np.array([(sum(row), len(row)) for row in rows], dtype=float)


def share(sums: Array) -> float:
    """The first sum as a share of the second; NaN without any token."""
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def perplexity(sums: Array) -> float:
    """The exponential of the mean surprise."""
    return math.exp(min(share(sums), MOST)) if sums[1] else math.nan


class Tokens(MetricKind):
    """A row is a list of tokens, predicted ones with the surprise of the right one."""

    type: ClassVar[str] = "tokens"
    features: ClassVar[dict[str, Any]] = {
        "predictions": [{"token": "int64", "surprise": "float64"}],
        "references": [{"token": "int64"}],
    }
    defaults: ClassVar[tuple[str, ...]] = ("accuracy", "perplexity")
    metrics: ClassVar[dict[str, Metric]] = {
        "accuracy": Metric(
            lambda p: share(count_right_tokens(p).sum(0)), counts=count_right_tokens, combine=share
        ),
        "perplexity": Metric(
            lambda p: perplexity(surprise(p).sum(0)), counts=surprise, combine=perplexity
        ),
    }
