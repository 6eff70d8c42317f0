"""Cohen's kappa: agreement with the right labels beyond what chance gives (Cohen 1960)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from adapterkit import Metric, MetricKind, Predictions


def cohen_kappa(p: Predictions) -> float:
    """`(observed - expected) / (1 - expected)`, from 1 for equal labels to -1; 0 if all labels
    are one and the same.

    Args:
        p: Index of each row's label, int64 `[n]`, predicted and right.
    """
    n_labels = 1 + max(p.predicted.max(), p.references.max())
    predicted = np.bincount(p.predicted, minlength=n_labels) / len(p)
    right = np.bincount(p.references, minlength=n_labels) / len(p)
    observed, expected = np.mean(p.predicted == p.references), predicted @ right
    return float((observed - expected) / (1 - expected)) if expected < 1 else 0.0


class Agreement(MetricKind):
    """A further metric of all tasks with one label for each row."""

    type: ClassVar[str] = "agreement"
    extends: ClassVar[str | None] = "classes"
    metrics: ClassVar[dict[str, Metric]] = {"cohen_kappa": Metric(cohen_kappa)}
