"""Metrics of BIO tags: whole entities, as seqeval counts them, and single tags.

`f1`, `precision` and `recall` read tags as the script of CoNLL-2003 does: `I-` after `O` or after
another kind begins an entity. `strict_...` read them as IOB2, where only `B-` begins one.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions
from .bio import OUTSIDE, entities_of, only_bio
from .tags import ACCURACY


def of_entities(name: str, **mode: Any) -> Metric:
    """F1, precision or recall of seqeval over the entities of all rows; 0 if there are none."""

    def score(p: Predictions) -> float:
        from seqeval import metrics
        from seqeval.scheme import IOB2

        references, predicted = only_bio(p.references), only_bio(p.predicted)
        if not any(tag != OUTSIDE for tag in chain(*references, *predicted)):
            return 0.0
        scheme = {"scheme": IOB2} if mode else {}
        function: Any = getattr(metrics, f"{name}_score")
        return float(function(references, predicted, zero_division=0, **mode, **scheme))

    return Metric(score)


def count_entities(p: Predictions) -> Array:
    """For each row twice the entities in common, and the entities of both sides, `[n, 2]`."""
    counts = []
    for predicted, reference in zip(p.predicted, p.references, strict=True):
        found, right = set(entities_of(predicted)), set(entities_of(reference))
        counts.append((2.0 * len(found & right), float(len(found) + len(right))))
    return np.array(counts)


STRICT: dict[str, Any] = {"mode": "strict"}


class Entities(MetricKind):
    """A row is a BIO tag for each word."""

    type: ClassVar[str] = "entities"
    features: ClassVar[dict[str, Any]] = {"predictions": ["string"], "references": ["string"]}
    defaults: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")
    metrics: ClassVar[dict[str, Metric]] = {
        "f1": Metric(of_entities("f1").score, counts=count_entities),
        "precision": of_entities("precision"),
        "recall": of_entities("recall"),
        "strict_f1": of_entities("f1", **STRICT),
        "strict_precision": of_entities("precision", **STRICT),
        "strict_recall": of_entities("recall", **STRICT),
        "accuracy": ACCURACY,
    }
