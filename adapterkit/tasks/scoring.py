"""How the answers to the rows of a split are scored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from ..errors import AdapterkitError, did_you_mean
from ..metrics.base import Predictions, metric_kinds
from ..metrics.bootstrap import interval
from ..metrics.hf_evaluate import measure
from .types import Example, Outputs


class Scoring(ABC):
    """The metrics of a task and the tables of its report."""

    type: ClassVar[str]

    metric_kind: ClassVar[str]
    """Kind of its predictions: the `type` of the `MetricKind` that scores them."""

    main_metric: ClassVar[str]
    """The metric that decides which epoch is kept; higher is better."""

    extra_metrics: tuple[str, ...]
    """Metrics that the recipe adds to those of the metric kind."""

    @abstractmethod
    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """Predictions and targets of a split, as the metrics of `metric_kind` take them."""

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """The metrics of a split, `main_metric` among them; without those that these rows leave
        undefined.

        Raises:
            AdapterkitError: The metric kind has no `main_metric`.
        """
        kind = metric_kinds()[self.metric_kind]
        if self.main_metric not in kind.metrics:
            raise AdapterkitError(
                f"the main metric '{self.main_metric}' of task '{self.type}' is none of the kind "
                f"'{self.metric_kind}'; {did_you_mean(self.main_metric, kind.metrics)}"
            )
        names = dict.fromkeys((*kind.defaults, self.main_metric, *self.extra_metrics))
        return measure(kind, names, predictions)

    def report(self, predictions: Predictions) -> dict[str, Any]:
        """Tables about a split: `per_class` and `confusion` (see `metrics/per_class.py`), if the
        task has classes, with their `labels`, if those are not the task's; right and predicted
        `numbers`, if its answers are numbers."""
        return {}

    def intervals(self, predictions: Predictions) -> dict[str, tuple[float, float]]:
        """The main metric's 95% bootstrap interval over the rows of a split, unless they leave it
        undefined."""
        metric = metric_kinds()[self.metric_kind].metrics[self.main_metric]
        ends = interval(metric, predictions)
        return {self.main_metric: ends} if all(map(math.isfinite, ends)) else {}
