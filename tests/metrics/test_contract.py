"""The contract of every registered metric, those of plug-ins included; no test names a metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from adapterkit.metrics.base import Metric, metric_kinds
from adapterkit.metrics.bootstrap import interval
from adapterkit.metrics.hf_evaluate import measure
from helpers.predictions import PREDICTIONS, predictions_of

METRICS = [(kind, name) for kind, found in metric_kinds().items() for name in found.metrics]
every_kind = pytest.mark.parametrize("kind", metric_kinds())
every_metric = pytest.mark.parametrize(
    ("kind", "name"), METRICS, ids=[f"{kind}-{name}" for kind, name in METRICS]
)


def metric_of(kind: str, name: str) -> Metric:
    return metric_kinds()[kind].metrics[name]


def test_there_are_no_predictions_of_other_kinds() -> None:
    assert PREDICTIONS.keys() <= metric_kinds().keys()


@every_kind
def test_the_default_metrics_of_a_kind_are_its_own(kind: str) -> None:
    found = metric_kinds()[kind]
    assert found.type == kind
    assert set(found.defaults) <= found.metrics.keys()
    assert {"predictions", "references"} <= found.features.keys()


@every_metric
def test_a_metric_is_a_number_whatever_the_order_of_rows(kind: str, name: str) -> None:
    predictions, metric = predictions_of(kind), metric_of(kind, name)
    value = metric.score(predictions)
    assert math.isfinite(value)
    order = np.random.default_rng(2).permutation(len(predictions))
    assert metric.score(predictions.rows(order)) == pytest.approx(value)


@every_metric
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")  # of scikit-learn
def test_a_metric_of_one_row_raises_nothing(kind: str, name: str) -> None:
    predictions, metric = predictions_of(kind), metric_of(kind, name)
    row = next(n for n, value in enumerate(predictions.references) if np.size(value))
    assert isinstance(metric.score(predictions.rows(np.array([row]))), float)


@every_metric
def test_evaluate_computes_the_same(kind: str, name: str) -> None:
    found = measure(metric_kinds()[kind], [name], predictions_of(kind))
    assert found == {name: pytest.approx(metric_of(kind, name).score(predictions_of(kind)))}


@every_metric
def test_a_metric_equals_its_combined_counts(kind: str, name: str) -> None:
    p, metric = predictions_of(kind), metric_of(kind, name)
    indices = np.random.default_rng(1).integers(len(p), size=len(p))
    if metric.counts is not None:
        for rows in (p, p.rows(indices)):
            whole = metric.combine(metric.counts(rows).sum(0))
            assert whole == pytest.approx(metric.score(rows))
        drawn = metric.combine(metric.counts(p)[indices].sum(0))
        assert drawn == pytest.approx(metric.score(p.rows(indices)))


@every_metric
def test_an_interval_equals_scipy(kind: str, name: str) -> None:
    """With and without counts, which only save time."""
    from scipy.stats import bootstrap

    predictions, metric = predictions_of(kind), metric_of(kind, name)

    def statistic(rows: Any) -> float:
        return metric.score(predictions.rows(rows))

    expected = bootstrap(
        (np.arange(len(predictions)),),
        statistic,
        n_resamples=25,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(3),
    )
    low_and_high = tuple(expected.confidence_interval)
    assert interval(metric, predictions, 25, seed=3) == pytest.approx(low_and_high, nan_ok=True)
