"""The counts of answers that a server keeps, and the drift that it computes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.lanes import WorkerLanes
from adapterkit.serving.app import make_app
from adapterkit.serving.engine.adapter_cache import AdapterCache
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.metrics import answer_watch
from adapterkit.serving.metrics.answer_watch import (
    KEPT_WINDOWS,
    MAX_LABELS,
    MAX_VERSIONS,
    MAX_WATCHED,
    WINDOW,
    AnswerWatch,
    AnswerWindows,
)
from adapterkit.serving.metrics.metrics import Metrics
from adapterkit.serving.service import Service
from adapterkit.serving.serving_limits import ServingLimits
from adapterkit.tasks.answer_distribution import AnswerDistribution
from adapterkit.tasks.drift import OTHER, Drift
from adapterkit.tasks.types import Decision
from helpers.adapters import MakeAdapter

TEXTS = ["my card please", "rain and sun", "the account", "a b c"]


class Clock:
    """A clock that is set by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_windows_forget_answers_after_a_day() -> None:
    clock = Clock()
    windows = AnswerWindows(None, clock)
    for hour in range(30):
        clock.seconds = 3600.0 * hour
        windows.count(Decision((f"label {hour % 2}",), 0.75))
        windows.count(Decision((), None))
    assert windows.since(1).rows == 2
    assert windows.since(3600).rows == 4
    day = windows.since(WINDOW * KEPT_WINDOWS)
    assert (day.rows, day.abstained) == (48, 24)
    assert day == windows.kept
    assert sum(day.confidence) == day.confidence[7] == 24
    clock.seconds += 10 * WINDOW * KEPT_WINDOWS
    windows.forget()
    assert windows.kept.rows == windows.since(WINDOW).rows == 0


def test_adapters_labels_and_versions_are_bounded() -> None:
    watch = AnswerWatch(Clock())
    for number in range(MAX_WATCHED + 5):
        watch.watched(f"adapter{number}")
    assert len(watch.adapters) == MAX_WATCHED
    assert watch.watched("one/more") is None
    watched = watch.watched("adapter0")
    assert watched is not None
    trained = AnswerDistribution(labels={f"label{n}": n + 1 for n in range(100)})
    for number in range(1, MAX_VERSIONS + 3):
        windows = watched.version(number, trained)
        for label in trained.labels:
            watched.count(Decision((label,), 0.5), windows)
    assert len(watched.windows) == MAX_VERSIONS
    assert len(watched.total.labels) == MAX_LABELS + 1
    assert {"label99", OTHER} < set(watched.total.labels)
    assert "label0" not in watched.total.labels
    labels = Drift.between(trained, windows.kept).labels
    assert labels is not None
    assert labels.js_distance > 0


@pytest.fixture
def client(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """A server of an adapter that gave `yes` as often as `no` after its training, and of one that
    does not say."""
    monkeypatch.setattr(answer_watch, "LEAST_ROWS", len(TEXTS))
    store = Store(tmp_path / "shelf")
    adapter = make_adapter(tiny, "lora", name="acme/intent")
    trained = AnswerDistribution.of(
        Decision((label,), 0.5) for label in ("no", "yes") for _ in range(200)
    )
    record = {"answers": {"split": "validation", **trained.plain()}}
    store.publish(replace(adapter, training=record), tiny.geometry)
    store.publish(replace(adapter, name="acme/old"), tiny.geometry)
    metrics = Metrics()
    cache = AdapterCache(store, tiny, 10**9, 0)
    engine = Engine(tiny, 256, 20_000, WorkerLanes(1, 1), metrics)
    service = Service(cache, engine, None, metrics, ServingLimits())
    with TestClient(make_app(service)) as client:
        yield client


def test_the_server_counts_labels_and_reports_their_drift(client: TestClient) -> None:
    labels = []
    for name in ("acme/intent", "acme/old", "base"):
        for _ in range(6):
            body = {"requests": [{"adapter_id": name, "inputs": text} for text in TEXTS]}
            labels += [one.get("label") for one in client.post("/predict", json=body).json()]
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            key = tuple(sample.labels.values())
            samples.setdefault(sample.name, {})[key] = sample.value
    first = labels[:24]
    assert samples["adapterkit_answers_total"] == {
        (name, label): first.count(label)
        for name in ("acme/intent", "acme/old")
        for label in set(first)
    }
    assert samples["adapterkit_abstentions_total"] == {("acme/intent",): 0, ("acme/old",): 0}
    assert samples["adapterkit_confidence_count"][("acme/intent",)] == 24
    assert samples["adapterkit_confidence_bucket"][("acme/intent", "+Inf")] == 24
    assert samples["adapterkit_drift_psi"].keys() == {
        ("acme/intent", "labels"),
        ("acme/intent", "confidence"),
    }
    report = client.get("/admin/drift/acme/intent?since=600").json()
    assert report["observed"]["rows"] == 24
    assert report["reference"]["rows"] == 400
    psi = report["drift"]["labels"]["psi"]
    assert psi == pytest.approx(samples["adapterkit_drift_psi"]["acme/intent", "labels"])
    old = client.get("/admin/drift/acme/old").json()
    assert (old["observed"]["rows"], old["reference"], old["drift"]) == (24, None, None)
    assert client.get("/admin/drift/acme/intent?version=7").status_code == 404
    assert client.get("/admin/drift/acme/intent?since=999999").status_code == 422
