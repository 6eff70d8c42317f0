"""Metrics of a tag for each word, where tags are not entities (parts of speech, say)."""

from __future__ import annotations

from itertools import chain
from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions


def f1_macro(p: Predictions) -> float:
    """F1 of each tag, averaged over those that occur."""
    from sklearn.metrics import f1_score

    predicted, references = list(chain(*p.predicted)), list(chain(*p.references))
    return float(f1_score(references, predicted, average="macro", zero_division=0))


def shared(p: Predictions) -> Array:
    """For each tag twice the words of a row that rightly have it; then, for each tag, the words
    that have it on both sides."""
    tags = sorted({*chain(*p.predicted), *chain(*p.references)})
    place = {tag: n for n, tag in enumerate(tags)}
    counts = np.zeros((len(p), 2, len(tags)))
    for row, (said, goal) in enumerate(zip(p.predicted, p.references, strict=True)):
        for one, other in zip(said, goal, strict=True):
            counts[row, 0, place[one]] += 2 * (one == other)
            counts[row, 1, place[one]] += 1
            counts[row, 1, place[other]] += 1
    return counts.reshape(len(p), -1)


def mean_f1(sums: Array) -> float:
    top, bottom = sums.reshape(2, -1)
    seen = bottom > 0
    return float((top[seen] / bottom[seen]).mean())


def accuracy(p: Predictions) -> float:
    """The share of words whose tag is right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(list(chain(*p.references)), list(chain(*p.predicted))))


ACCURACY = Metric(accuracy)


class Tags(MetricKind):
    type: ClassVar[str] = "tags"
    features: ClassVar[dict[str, Any]] = {"predictions": ["string"], "references": ["string"]}
    defaults: ClassVar[tuple[str, ...]] = ("f1", "accuracy")
    metrics: ClassVar[dict[str, Metric]] = {
        "f1": Metric(f1_macro, counts=shared, combine=mean_f1),
        "accuracy": ACCURACY,
    }
