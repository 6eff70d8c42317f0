"""Metrics of a tag for each word, for tags that are no entities, such as parts of speech."""

from __future__ import annotations

from itertools import chain
from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions


def f1_macro(p: Predictions) -> float:
    """F1 of each tag, averaged over the tags that occur."""
    from sklearn.metrics import f1_score

    predicted, references = list(chain(*p.predicted)), list(chain(*p.references))
    return float(f1_score(references, predicted, average="macro", zero_division=0))


def count_tags(p: Predictions) -> Array:
    """For each row, for each of T tags: twice the words that rightly have it; then the words of
    both sides that have it, `[n, 2 T]`."""
    tags = sorted({*chain(*p.predicted), *chain(*p.references)})
    column = {tag: n for n, tag in enumerate(tags)}
    counts = np.zeros((len(p), 2, len(tags)))
    for row, pair in enumerate(zip(p.predicted, p.references, strict=True)):
        for predicted, reference in zip(*pair, strict=True):
            counts[row, 0, column[predicted]] += 2 * (predicted == reference)
            counts[row, 1, column[predicted]] += 1
            counts[row, 1, column[reference]] += 1
    return counts.reshape(len(p), -1)


def mean_f1(sums: Array) -> float:
    """The mean F1 over the tags that occur, from the sums of `count_tags`."""
    numerators, denominators = sums.reshape(2, -1)
    occurs = denominators > 0
    return float((numerators[occurs] / denominators[occurs]).mean())


def accuracy(p: Predictions) -> float:
    """Share of the words whose tag is right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(list(chain(*p.references)), list(chain(*p.predicted))))


ACCURACY = Metric(accuracy)


class Tags(MetricKind):
    """A row is a tag for each word."""

    type: ClassVar[str] = "tags"
    features: ClassVar[dict[str, Any]] = {"predictions": ["string"], "references": ["string"]}
    defaults: ClassVar[tuple[str, ...]] = ("f1", "accuracy")
    metrics: ClassVar[dict[str, Metric]] = {
        "f1": Metric(f1_macro, counts=count_tags, combine=mean_f1),
        "accuracy": ACCURACY,
    }
