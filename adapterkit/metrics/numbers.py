"""Metrics of a number for each row, as scikit-learn and SciPy define them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .base import Metric, MetricKind, Predictions


def correlation(name: str) -> Metric:
    """A correlation of SciPy; 0 if predictions or references are constant."""

    def score(p: Predictions) -> float:
        from scipy import stats

        if np.ptp(p.predicted) == 0 or np.ptp(p.references) == 0:
            return 0.0
        function: Any = getattr(stats, name)
        return float(function(p.predicted, p.references).statistic)

    return Metric(score)


def error(name: str) -> Metric:
    """An error of scikit-learn, in the units of the rows or their square."""

    def score(p: Predictions) -> float:
        from sklearn import metrics

        function: Any = getattr(metrics, name)
        return float(function(p.references, p.predicted))

    return Metric(score)


def r2(p: Predictions) -> float:
    """Coefficient of determination; NaN if the references are constant."""
    from sklearn.metrics import r2_score

    if np.ptp(p.references) == 0:
        return float("nan")
    return float(r2_score(p.references, p.predicted))


class Numbers(MetricKind):
    """A row is a number."""

    type: ClassVar[str] = "numbers"
    features: ClassVar[dict[str, Any]] = {"predictions": "float64", "references": "float64"}
    defaults: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mae")
    metrics: ClassVar[dict[str, Metric]] = {
        "pearson": correlation("pearsonr"),
        "spearman": correlation("spearmanr"),
        "mae": error("mean_absolute_error"),
        "mse": error("mean_squared_error"),
        "rmse": error("root_mean_squared_error"),
        "r2": Metric(r2),
    }
