"""Predictions with their references, and the base class of the metrics for one kind of prediction.

A new metric is one entry in the file of its kind in `metrics/`; a new kind is one new file there.
A plug-in adds either of them with a class that extends `MetricKind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import AdapterkitError, did_you_mean
from ..registry import discover

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """The predictions of a task for some rows, and the right ones.

    Attributes:
        predicted: A value for each row: an array, or a list if rows differ in length.
        references: The right value for each row, likewise.
        probabilities: Probability of every label, `[n, C]`, if the kind has labels.
    """

    predicted: Any
    references: Any
    probabilities: Any = None

    def __len__(self) -> int:
        return len(self.predicted)

    def rows(self, indices: Array) -> Predictions:
        """The rows with some indices, which may repeat."""
        probabilities = self.probabilities
        return Predictions(
            _take(self.predicted, indices),
            _take(self.references, indices),
            None if probabilities is None else probabilities[indices],
        )


@dataclass(frozen=True)
class Metric:
    """A metric: one number for some predictions.

    Attributes:
        score: Its value; NaN if it is undefined for these rows.
        counts: Numbers of each row, `[n, k]`, whose sums over the rows determine the metric. They
            are optional; a bootstrap interval takes a second with them and minutes without.
        combine: From such sums, `[k]`, to the metric.
    """

    score: Callable[[Predictions], float]
    counts: Callable[[Predictions], Array] | None = None
    combine: Callable[[Array], float] = lambda sums: float(sums[0] / sums[1]) if sums[1] else 0.0


def mean(value: Callable[[Any, Any], float]) -> Metric:
    """The metric that is a mean over the rows.

    Args:
        value: From the prediction and the reference of a row to its value.
    """

    def each(p: Predictions) -> Array:
        rows = zip(p.predicted, p.references, strict=True)
        return np.array([(value(predicted, reference), 1.0) for predicted, reference in rows])

    return Metric(lambda p: float(each(p)[:, 0].mean()), counts=each)


class MetricKind:
    """The metrics of one kind of prediction, or further metrics of a kind that exists."""

    type: ClassVar[str]
    """Name, as a task's `metric_kind` has it."""

    extends: ClassVar[str | None] = None
    """Name of the kind that gets these metrics too; such a class needs `type` and `metrics` only.
    None for a kind of its own."""

    features: ClassVar[Mapping[str, Any]]
    """Type of each column for Hugging Face `evaluate`: the name of a type, a list of one for lists,
    or a mapping of names to types."""

    defaults: ClassVar[tuple[str, ...]]
    """Metrics that are always reported."""

    metrics: ClassVar[Mapping[str, Metric]]
    """All metrics of the kind, by name."""

    sample_predictions: ClassVar[Predictions | None] = None
    """Some predictions of the kind: a plug-in's contract test computes the metrics of them."""


def check_metrics(kinds: Iterable[str], names: Sequence[str]) -> None:
    """Checks the names of metrics in a recipe.

    Args:
        kinds: Metric kinds that the task may have.
        names: Metrics of the recipe.

    Raises:
        ValueError: A metric is of none of these kinds.
    """
    kinds = list(kinds)
    valid = {name for kind in kinds for name in metric_kinds()[kind].metrics}
    for name in names:
        if name not in valid:
            raise ValueError(
                f"extra_metrics: there is no metric '{name}' for {' or '.join(kinds)}; "
                f"{did_you_mean(name, valid)}"
            )


@cache
def metric_kinds() -> dict[str, type[MetricKind]]:
    """All metric kinds by name, those of plug-ins and their further metrics included.

    Raises:
        AdapterkitError: A plug-in is broken, extends a kind that does not exist, or has a metric
            that the kind has already.
    """
    found = discover("adapterkit.metrics", MetricKind)
    kinds = {name: kind for name, kind in found.items() if kind.extends is None}
    for name, further in found.items():
        if further.extends is None:
            continue
        if further.extends not in kinds:
            raise AdapterkitError(
                f"the metrics '{name}' extend '{further.extends}': there is no such kind; "
                f"{did_you_mean(further.extends, kinds)}"
            )
        extended = kinds[further.extends]
        if twice := sorted(further.metrics.keys() & extended.metrics.keys()):
            raise AdapterkitError(
                f"the metrics '{name}' extend '{further.extends}', which has "
                f"{', '.join(twice)} already; rename or uninstall one"
            )
        members = {"metrics": {**extended.metrics, **further.metrics}}
        kinds[further.extends] = type(extended.__name__, (extended,), members)
    return kinds


def _take(values: Any, indices: Array) -> Any:
    return values[indices] if isinstance(values, np.ndarray) else [values[n] for n in indices]
