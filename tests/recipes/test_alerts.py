"""The alert rules and the dashboard of recipes/deploy, beside the metrics of a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.client.http import Client
from adapterkit.serving.metrics import answer_watch
from adapterkit.tasks.answer_distribution import AnswerDistribution
from adapterkit.tasks.types import Decision
from helpers.adapters import MakeAdapter
from helpers.alerts import expressions, metric_names
from helpers.paths import DEPLOY
from helpers.server import serving

PROMTOOL = shutil.which("promtool")

Metrics = Mapping[str, set[str]]
"""Names of the labels of each metric of the server."""


@pytest.fixture(scope="module")
def metrics(
    tiny: Backbone,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Metrics:
    """The metrics of a server with a rollout, which has answered enough to report drift."""
    store = Store(tmp_path_factory.mktemp("shelf"))
    trained = AnswerDistribution.of([Decision(("yes",), 0.9)] * 9)
    record = {"answers": {"split": "test", **trained.plain()}}
    adapter = make_adapter(tiny, "lora", name="acme/intent")
    for _ in range(2):
        store.publish(replace(adapter, training=record), tiny.geometry)
    with serving(store.root, tiny_folder) as url, Client(url) as client:
        client.roll_out("acme/intent", "stable", {1: 1}, shadow=2)
        client.predict("acme/intent@stable", "my card")
        client.ask([("acme/intent", "my card")] * answer_watch.LEAST_ROWS)
        text = httpx2.get(f"{url}/metrics").text
    found: dict[str, set[str]] = {"up": {"job"}}
    for family in text_string_to_metric_families(text):
        kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        for ending in kinds.get(family.type, ("",)):
            found[family.name + ending] = set()
        for sample in family.samples:
            found[sample.name] = set(sample.labels)
    return found


def test_rules_and_panels_use_metrics_and_labels_that_the_server_has(metrics: Metrics) -> None:
    used = set()
    given_by_prometheus = {"instance", "job"}
    for place, promql in expressions():
        names = metric_names(promql)
        assert names, place
        assert names <= metrics.keys(), place
        labels = given_by_prometheus.union(*(metrics[name] for name in names))
        grouped = ",".join(re.findall(r"\b(?:by|ignoring) \(([^)]*)\)", promql))
        matched = re.findall(r"[{,]\s*(\w+)\s*=", promql)
        in_rule = {*filter(None, re.split(r"[,\s]+", grouped)), *matched}
        unseen = {"tier", "reason", "phase"}  # a metric without a sample shows no labels
        assert in_rule <= labels | unseen, place
        used |= {re.sub("_(bucket|sum|count)$", "", name) for name in names}
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in metrics}
    unused = {name for name in shown - used if not name.endswith("_created")}
    assert unused == {"adapterkit_batch_seconds"}


def test_every_rule_has_a_severity_and_a_summary() -> None:
    (group,) = YAML(typ="safe").load(DEPLOY / "alerts.yaml")["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
    cases = YAML(typ="safe").load(DEPLOY / "alerts_test.yaml")["tests"]
    tested = {one["alertname"] for case in cases for one in case["alert_rule_test"]}
    assert tested <= set(names)


def test_the_dashboard_can_be_imported() -> None:
    board: dict[str, Any] = json.loads((DEPLOY / "dashboard.json").read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    squares = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(squares)) == len(squares), "panels overlap"
    assert max(x for x, _ in squares) < 24
    known = {one["name"] for one in board["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) <= known


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_accepts_all_files(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": promql.replace("$__rate_interval", "5m")}
        for number, (_, promql) in enumerate(expressions())
    ]
    panels = tmp_path / "panels.yaml"
    panels.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    for words in (
        ("check", "config", "--syntax-only", "prometheus.yaml"),
        ("test", "rules", "alerts_test.yaml"),
        ("check", "rules", str(panels)),
    ):
        done = subprocess.run(
            [str(PROMTOOL), *words], cwd=DEPLOY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
