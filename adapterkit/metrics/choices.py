"""Metrics of one choice of several, if each row has its own choices."""

from __future__ import annotations

from typing import Any, ClassVar

from .base import Metric, MetricKind
from .classes import ACCURACY


class Choices(MetricKind):
    """A row is the index of a choice."""

    type: ClassVar[str] = "choices"
    features: ClassVar[dict[str, Any]] = {"predictions": "int64", "references": "int64"}
    defaults: ClassVar[tuple[str, ...]] = ("accuracy",)
    metrics: ClassVar[dict[str, Metric]] = {"accuracy": ACCURACY}
