"""What the alert rules and the dashboard of recipes/deploy ask Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ruamel.yaml import YAML

from helpers.paths import DEPLOY


def expressions() -> Iterator[tuple[str, str]]:
    """Place and PromQL of every rule and panel."""
    for group in YAML(typ="safe").load(DEPLOY / "alerts.yaml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((DEPLOY / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def metric_names(promql: str) -> set[str]:
    """Names of the metrics in an expression."""
    return set(re.findall(r"\b(?:adapterkit_\w+|up)\b", promql))
