"""Tables about the classes of a split, of plain values that a card can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Predictions
from .entity_tags import entities_of, to_iobes

Table = list[Any]


def per_class(
    names: Sequence[str], labels: Sequence[Any], predicted: Any, references: Any
) -> Table:
    """Precision, recall, F1 and number of rows of every label, by scikit-learn.

    Args:
        names: Names of the labels.
        labels: The labels as values of `predicted`.
        predicted: One label for each row, or 0 or 1 for each label, `[n, C]`.
        references: The right ones, likewise.
    """
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        references, predicted, labels=labels, average=None, zero_division=0
    )
    return _rows(names, columns)


def per_entity(predictions: Predictions) -> Table:
    """Precision, recall, F1 and number of entities of every kind of entity, by seqeval."""
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    predicted, references = to_iobes(predictions.predicted), to_iobes(predictions.references)
    kinds = sorted({kind for tags in (*predicted, *references) for kind, _, _ in entities_of(tags)})
    if not kinds:
        return []
    columns = precision_recall_fscore_support(references, predicted, average=None, zero_division=0)
    return _rows(kinds, columns)


def confusion(predictions: Predictions) -> Table:
    """The confusion matrix, sparse: index of the right label, of the predicted label, and number of
    rows."""
    pairs, counts = np.unique(
        np.stack([predictions.references, predictions.predicted], axis=1),
        axis=0,
        return_counts=True,
    )
    return [[*pair, count] for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)]


def _rows(names: Sequence[str], columns: Sequence[Any]) -> Table:
    precision, recall, f1, support = (np.asarray(column).tolist() for column in columns)
    return [
        {
            "label": name,
            "precision": round(precision[n], 6),
            "recall": round(recall[n], 6),
            "f1": round(f1[n], 6),
            "support": int(support[n]),
        }
        for n, name in enumerate(names)
    ]
