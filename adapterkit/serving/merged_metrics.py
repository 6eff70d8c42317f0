"""The metrics of several replicas as one text, in which each sample names its replica."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ..names import BASE

LABEL = "replica"
"""The label that names the replica of a sample."""


def pack_metrics(metrics: Sequence[Metric]) -> bytes:
    """The metrics of a replica as bytes for `merged_text`."""
    return pickle.dumps(metrics)


def merged_text(packed: Mapping[str, bytes], may_see: Callable[[str], bool]) -> bytes:
    """The metrics of several replicas in the text format of Prometheus, each metric once.

    Args:
        packed: The metrics of each replica by its name, from `pack_metrics`.
        may_see: Whether the samples of an adapter are among them.
    """
    merged: dict[str, Metric] = {}
    for replica, content in sorted(packed.items()):
        for metric in pickle.loads(content):  # noqa: S301  # a replica has written it
            family = merged.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
            )
            family.samples += [
                one._replace(labels={LABEL: replica, **one.labels})
                for one in metric.samples
                if may_see(one.labels.get("adapter", BASE))
            ]
    registry = CollectorRegistry()
    registry.register(_Merged(list(merged.values())))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
