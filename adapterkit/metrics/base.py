"""What judges a task: predictions beside what they should be, and the metrics that suit their kind.

A new metric is one entry in the file of its kind in `metrics/`; a new kind is one new file there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import did_you_mean
from ..registry import discover

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """What a task said of some rows, and what it should have said.

    Attributes:
        predicted: A value for each row: an array, or a list where rows differ in length.
        references: Likewise, what is right.
        probabilities: Of every label, an array `[n, C]`, where the kind has them.
    """

    predicted: Any
    references: Any
    probabilities: Any = None

    def __len__(self) -> int:
        return len(self.predicted)

    def rows(self, places: Array) -> Predictions:
        """The rows at some places, which may repeat."""
        chances = self.probabilities
        return Predictions(
            _at(self.predicted, places),
            _at(self.references, places),
            None if chances is None else chances[places],
        )


@dataclass(frozen=True)
class Metric:
    """One number that judges predictions.

    Attributes:
        score: The metric of some rows; NaN where they leave it undefined.
        counts: Numbers of each row, `[n, k]`, whose sums over rows decide the metric. Not needed,
            but with them an interval takes a second where it would take minutes.
        combine: The metric from such sums.
    """

    score: Callable[[Predictions], float]
    counts: Callable[[Predictions], Array] | None = None
    combine: Callable[[Array], float] = lambda sums: float(sums[0] / sums[1]) if sums[1] else 0.0


def mean(value: Callable[[Any, Any], float]) -> Metric:
    """The mean over the rows of a value of each, from what is predicted and what is right."""

    def each(p: Predictions) -> Array:
        rows = zip(p.predicted, p.references, strict=True)
        return np.array([(value(said, goal), 1.0) for said, goal in rows])

    return Metric(lambda p: float(each(p)[:, 0].mean()), counts=each)


class MetricKind:
    """The metrics of one kind of prediction."""

    type: ClassVar[str]
    """Name, as tasks ask for it."""

    features: ClassVar[Mapping[str, Any]]
    """Type of each column, as Hugging Face `evaluate` is told; in a list or a mapping for lists
    and mappings of such."""

    defaults: ClassVar[tuple[str, ...]]
    """Metrics that are always told."""

    metrics: ClassVar[Mapping[str, Metric]]
    """All there are, by name."""


def check_metrics(kinds: Iterable[str], names: Sequence[str]) -> None:
    """Refuses names in a recipe of metrics that do not judge such predictions.

    Args:
        kinds: Kinds of prediction the task may make.
        names: Metrics the recipe asks for.

    Raises:
        ValueError: One is not known for any of them.
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
    """Every kind of prediction there is, by name."""
    return discover("adapterkit.metrics", MetricKind)


def _at(values: Any, places: Array) -> Any:
    return values[places] if isinstance(values, np.ndarray) else [values[n] for n in places]
