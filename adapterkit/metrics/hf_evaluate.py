"""Metrics as a module of Hugging Face `evaluate`, without a download and without a cache.

`import evaluate` takes seconds, so it is imported only when something is scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .base import MetricKind, Predictions


def local_metric(kind: type[MetricKind], names: Iterable[str]) -> Any:
    """Returns metrics of one kind as an `evaluate.Metric`, with `compute`, `add` and `add_batch`.

    Args:
        kind: The kind.
        names: Names of its metrics.
    """
    return _metric_class()(kind, names)


@cache
def _metric_class() -> Any:
    import evaluate
    from datasets import Features

    class LocalMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
        def __init__(self, kind: type[MetricKind], names: Iterable[str]) -> None:
            self.kind, self.names = kind, tuple(names)
            with TemporaryDirectory() as folder:  # required, but unused by a metric in memory
                super().__init__(kind.type, keep_in_memory=True, cache_dir=folder, seed=0)

        def _info(self) -> Any:
            columns = {name: _feature(kind) for name, kind in self.kind.features.items()}
            return evaluate.MetricInfo(
                description=f"{', '.join(self.names)} of {self.kind.type}",
                citation="",
                inputs_description="",
                features=Features(columns),
            )

        def _compute(
            self, predictions: Any, references: Any, probabilities: Any = None
        ) -> dict[str, float]:
            given = Predictions(
                _array(predictions, self.kind.features["predictions"]),
                _array(references, self.kind.features["references"]),
                None if probabilities is None else np.asarray(probabilities),
            )
            found = {name: float(self.kind.metrics[name].score(given)) for name in self.names}
            return {name: value for name, value in found.items() if math.isfinite(value)}

    return LocalMetric


def measure(
    kind: type[MetricKind], names: Iterable[str], predictions: Predictions
) -> dict[str, float]:
    """Returns metrics of some rows by name, without those that these rows leave undefined."""
    columns: Mapping[str, Any] = {
        "predictions": predictions.predicted,
        "references": predictions.references,
        "probabilities": predictions.probabilities,
    }
    found: dict[str, float] = local_metric(kind, names).compute(
        **{name: columns[name] for name in kind.features}
    )
    return found


def _array(column: list[Any], feature: Any) -> Any:
    """Converts a column of numbers to an array; other columns are returned unchanged."""
    inner = feature[0] if isinstance(feature, list) else feature
    return column if inner == "string" or isinstance(inner, Mapping) else np.asarray(column)


def _feature(kind: Any) -> Any:
    from datasets import Value

    if isinstance(kind, Mapping):
        return {name: _feature(inner) for name, inner in kind.items()}
    return [_feature(kind[0])] if isinstance(kind, list) else Value(kind)
