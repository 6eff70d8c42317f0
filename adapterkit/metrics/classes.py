"""Metrics of one class for each row, as scikit-learn defines them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions


def averaged(name: str, average: str) -> Metric:
    """F1, precision or recall of scikit-learn, averaged over the classes that occur; 0 for a
    division by zero."""

    def score(p: Predictions) -> float:
        from sklearn import metrics

        function: Any = getattr(metrics, f"{name}_score")
        return float(function(p.references, p.predicted, average=average, zero_division=0))

    return Metric(score)


def accuracy(p: Predictions) -> float:
    """Share of the rows that are right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(p.references, p.predicted))


def count_right_rows(p: Predictions) -> Array:
    """For each row whether it is right, and 1, `[n, 2]`."""
    is_right = p.predicted == p.references
    return np.stack([is_right, np.ones_like(is_right)], axis=1).astype(float)


def matthews(p: Predictions) -> float:
    """Matthews correlation coefficient."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(p.references, p.predicted))


def balanced_accuracy(p: Predictions) -> float:
    """Mean recall over the classes that occur in the references."""
    from sklearn.metrics import recall_score

    labels = np.unique(p.references)
    return float(
        recall_score(p.references, p.predicted, labels=labels, average="macro", zero_division=0)
    )


def roc_auc(p: Predictions) -> float:
    """Area under the ROC curve of each class against the rest, averaged over the classes that
    occur; for two classes the usual area. NaN if all rows have one class."""
    from sklearn.metrics import roc_auc_score

    found = np.unique(p.references)
    if len(found) < 2:
        return float("nan")
    return float(np.mean([roc_auc_score(p.references == c, p.probabilities[:, c]) for c in found]))


def log_loss(p: Predictions) -> float:
    """Mean negative log-probability of the right class."""
    from sklearn import metrics

    every = range(p.probabilities.shape[1])
    return float(metrics.log_loss(p.references, p.probabilities, labels=every))


ACCURACY = Metric(accuracy, counts=count_right_rows)


class Classes(MetricKind):
    """A row is the index of a class, with the probability of every class."""

    type: ClassVar[str] = "classes"
    features: ClassVar[dict[str, Any]] = {
        "predictions": "int64",
        "references": "int64",
        "probabilities": ["float64"],
    }
    defaults: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")
    metrics: ClassVar[dict[str, Metric]] = {
        "accuracy": ACCURACY,
        "balanced_accuracy": Metric(balanced_accuracy),
        **{
            f"{name}_{average}": averaged(name, average)
            for name in ("f1", "precision", "recall")
            for average in ("micro", "macro", "weighted")
        },
        "matthews": Metric(matthews),
        "roc_auc": Metric(roc_auc),
        "log_loss": Metric(log_loss),
    }
