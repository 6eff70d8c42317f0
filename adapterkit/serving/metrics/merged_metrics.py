"""The metrics of several replicas as one text, in which each sample names its replica."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ...names import BASE

LABEL = "replica"
"""The label that names the replica of a sample."""


def pack_metrics(metrics: Sequence[Metric]) -> bytes:
    """The metrics of a replica as bytes for `merged_text`: JSON."""
    return json.dumps(
        [
            {
                "family": (one.name, one.documentation, one.type, one.unit),
                "samples": [(sample.name, sample.labels, sample.value) for sample in one.samples],
            }
            for one in metrics
        ]
    ).encode()


def merged_text(packed: Mapping[str, bytes], may_see: Callable[[str], bool]) -> bytes:
    """The metrics of several replicas in the text format of Prometheus, each metric once.

    Args:
        packed: The metrics of each replica by its name, from `pack_metrics`.
        may_see: Whether the samples of an adapter are among them.
    """
    merged: dict[str, Metric] = {}
    for replica, content in sorted(packed.items()):
        for one in json.loads(content):
            family = Metric(*one["family"])
            family = merged.setdefault(family.name, family)
            for name, labels, value in one["samples"]:
                if may_see(labels.get("adapter", BASE)):
                    family.add_sample(name, {LABEL: replica, **labels}, value)
    registry = CollectorRegistry()
    registry.register(_Merged(list(merged.values())))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
