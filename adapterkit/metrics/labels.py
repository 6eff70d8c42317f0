"""Metrics of several labels for each row, as scikit-learn defines them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions
from .classes import averaged


def count_labels(p: Predictions) -> Array:
    """For each row twice the labels in common, and the labels of both sides, `[n, 2]`."""
    both = (p.predicted & p.references).sum(1)
    return np.stack([2 * both, p.predicted.sum(1) + p.references.sum(1)], axis=1).astype(float)


def exact(p: Predictions) -> float:
    """Share of the rows whose labels are all right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(p.references, p.predicted))


def hamming_loss(p: Predictions) -> float:
    """Share of all pairs of a row and a label that are wrong."""
    from sklearn import metrics

    return float(metrics.hamming_loss(p.references, p.predicted))


def over_labels(name: str) -> Metric:
    """A score of scikit-learn of each label's probabilities, averaged over the labels that some
    rows have and others do not have; NaN if there is no such label."""

    def score(p: Predictions) -> float:
        from sklearn import metrics

        share = p.references.mean(0)
        mixed = np.flatnonzero((share > 0) & (share < 1))
        if not len(mixed):
            return float("nan")
        function: Any = getattr(metrics, f"{name}_score")
        return float(function(p.references[:, mixed], p.probabilities[:, mixed], average="macro"))

    return Metric(score)


F1_MICRO = Metric(averaged("f1", "micro").score, counts=count_labels)


class Labels(MetricKind):
    """A row is 1 or 0 for each label, with the probability of every label."""

    type: ClassVar[str] = "labels"
    features: ClassVar[dict[str, Any]] = {
        "predictions": ["int64"],
        "references": ["int64"],
        "probabilities": ["float64"],
    }
    defaults: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_macro", "exact")
    metrics: ClassVar[dict[str, Metric]] = {
        **{
            f"{name}_{average}": averaged(name, average)
            for name in ("f1", "precision", "recall")
            for average in ("micro", "macro", "weighted", "samples")
        },
        "f1_micro": F1_MICRO,
        "exact": Metric(exact),
        "hamming_loss": Metric(hamming_loss),
        "roc_auc": over_labels("roc_auc"),
        "average_precision": over_labels("average_precision"),
    }
