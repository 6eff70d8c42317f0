"""Metrics of the rank of each row's right answer; the first rank is 1."""

from __future__ import annotations

from typing import Any, ClassVar

from .base import Metric, MetricKind, mean


def recall(k: int) -> Metric:
    """Share of the rows whose right answer is among the first k."""
    return mean(lambda rank, _: float(rank <= k))


class Ranks(MetricKind):
    """A prediction is a rank; a reference is the number of candidates."""

    type: ClassVar[str] = "ranks"
    features: ClassVar[dict[str, Any]] = {"predictions": "int64", "references": "int64"}
    defaults: ClassVar[tuple[str, ...]] = ("mrr", "recall@1", "recall@5", "recall@10")
    metrics: ClassVar[dict[str, Metric]] = {
        "mrr": mean(lambda rank, _: 1.0 / rank),
        **{f"recall@{k}": recall(k) for k in (1, 3, 5, 10, 50, 100)},
        "mean_rank": mean(lambda rank, _: float(rank)),
    }
