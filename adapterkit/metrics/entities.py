"""Metrics of BIO tags: whole entities as seqeval counts them, and single tags.

`f1`, `precision` and `recall` read tags as CoNLL's script does: `I-` after nothing, or after
another kind, begins an entity. `strict_...` read them as IOB2: only `B-` begins one.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions
from .bio import OUTSIDE, entities_of, only_bio
from .tags import ACCURACY


def of_entities(name: str, **mode: Any) -> Metric:
    """seqeval's F1, precision or recall over the entities of all rows; 0 where there are none."""

    def score(p: Predictions) -> float:
        from seqeval import metrics
        from seqeval.scheme import IOB2

        goal, said = only_bio(p.references), only_bio(p.predicted)
        if not any(tag != OUTSIDE for tag in chain(*goal, *said)):
            return 0.0
        scheme = {"scheme": IOB2} if mode else {}
        function: Any = getattr(metrics, f"{name}_score")
        return float(function(goal, said, zero_division=0, **mode, **scheme))

    return Metric(score)


def shared(p: Predictions) -> Array:
    """Twice the entities that each row has in common, and the entities of both sides."""
    counts = []
    for said, goal in zip(p.predicted, p.references, strict=True):
        found, real = set(entities_of(said)), set(entities_of(goal))
        counts.append((2.0 * len(found & real), float(len(found) + len(real))))
    return np.array(counts)


STRICT: dict[str, Any] = {"mode": "strict"}


class Entities(MetricKind):
    type: ClassVar[str] = "entities"
    features: ClassVar[dict[str, Any]] = {"predictions": ["string"], "references": ["string"]}
    defaults: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")
    metrics: ClassVar[dict[str, Metric]] = {
        "f1": Metric(of_entities("f1").score, counts=shared),
        "precision": of_entities("precision"),
        "recall": of_entities("recall"),
        "strict_f1": of_entities("f1", **STRICT),
        "strict_precision": of_entities("precision", **STRICT),
        "strict_recall": of_entities("recall", **STRICT),
        "accuracy": ACCURACY,
    }
