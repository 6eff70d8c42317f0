"""Metrics of entity tags: whole entities, as seqeval counts them, and single tags.

`f1`, `precision` and `recall` read tags as the script of CoNLL-2003 does: `I-` after `O` or after
another kind begins an entity. `strict_...` read them strictly in the scheme of the references:
IOBES if they have `E-` or `S-`, else IOB1 or IOB2, where only `B-` begins one.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, ClassVar

import numpy as np

from .base import Array, Metric, MetricKind, Predictions
from .entity_tags import OUTSIDE, entities_of, is_iob1, to_iobes
from .tags import ACCURACY


def of_entities(name: str, **mode: Any) -> Metric:
    """F1, precision or recall of seqeval over the entities of all rows; 0 if there are none."""

    def score(p: Predictions) -> float:
        from seqeval import metrics

        references, predicted = to_iobes(p.references), to_iobes(p.predicted)
        if not any(tag != OUTSIDE for tag in chain(*references, *predicted)):
            return 0.0
        scheme = {"scheme": _scheme(references)} if mode else {}
        function: Any = getattr(metrics, f"{name}_score")
        return float(function(references, predicted, zero_division=0, **mode, **scheme))

    return Metric(score)


def _scheme(references: list[list[str]]) -> Any:
    """seqeval's scheme of tags with prefixes of IOBES."""
    from seqeval.scheme import IOB1, IOB2, IOBES

    if any(tag.startswith(("E-", "S-")) for tag in chain(*references)):
        return IOBES
    return IOB1 if is_iob1(references) else IOB2


def count_entities(p: Predictions) -> Array:
    """For each row twice the entities in common, and the entities of both sides, `[n, 2]`."""
    counts = []
    for predicted, reference in zip(p.predicted, p.references, strict=True):
        found, right = set(entities_of(predicted)), set(entities_of(reference))
        counts.append((2.0 * len(found & right), float(len(found) + len(right))))
    return np.array(counts)


STRICT: dict[str, Any] = {"mode": "strict"}


class Entities(MetricKind):
    """A row is a tag for each word, in one of the schemes of `entity_tags.py`."""

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
