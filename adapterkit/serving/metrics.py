"""What a server tells Prometheus, and the few numbers that its page shows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import cache
from statistics import median

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .adapter_cache import AdapterCache
from .engine import Engine, EngineObserver
from .tracing import Traces

MAX_ADAPTERS = 500
"""Adapters counted by name; later ones are counted as `_other`, so that a scrape stays small."""

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics(EngineObserver):
    """Counters and histograms of one server.

    Args:
        traces: Where stages are traced as well.
    """

    def __init__(self, traces: Traces | None = None) -> None:
        self.traces = traces
        self.activity = Activity()
        self.registry = CollectorRegistry()
        self._stages = Histogram(
            "adapterkit_stage_seconds",
            "Seconds of a request by stage",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._seconds = Histogram(
            "adapterkit_batch_seconds",
            "Seconds of a packed forward",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._rows = Histogram(
            "adapterkit_batch_rows",
            "Rows of a batch",
            buckets=[2**n for n in range(11)],
            registry=self.registry,
        )
        self._tokens = Histogram(
            "adapterkit_batch_tokens",
            "Tokens of a batch",
            buckets=[2**n for n in range(4, 16)],
            registry=self.registry,
        )
        self._requests = Counter(
            "adapterkit_requests", "Answered HTTP requests", ["status"], registry=self.registry
        )
        self._adapters = Counter(
            "adapterkit_adapter_rows", "Rows answered", ["adapter"], registry=self.registry
        )
        # Looking a label up takes longer than counting, so what was looked up once is kept.
        self._of_stage = cache(self._stages.labels)
        self._of_status = cache(self._requests.labels)
        self._of_adapter: dict[str, Counter] = {}

    def watch(self, engine: Engine, resident: AdapterCache) -> None:
        """Shows what engine and resident set hold at the moment of a scrape."""
        self.registry.register(_Held(engine, resident))

    def stage(self, name: str, seconds: float) -> None:
        self._of_stage(name).observe(seconds)
        if self.traces is not None:
            self.traces.stage(name, seconds)

    def batch(self, rows: int, tokens: int, seconds: float) -> None:
        self._rows.observe(rows)
        self._tokens.observe(tokens)
        self._seconds.observe(seconds)
        self.activity.batch(rows, tokens)

    def request(self, status: int) -> None:
        """An HTTP request was answered."""
        self._of_status(str(status)).inc()

    def rows(self, adapter: str, rows: int) -> None:
        """Rows of an adapter were answered."""
        counter = self._of_adapter.get(adapter)
        if counter is None:
            name = adapter if len(self._of_adapter) < MAX_ADAPTERS else "_other"
            counter = self._adapters.labels(name)
            if name == adapter:
                self._of_adapter[name] = counter
        counter.inc(rows)

    def text(self) -> bytes:
        """The scrape, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Held(Collector):
    def __init__(self, engine: Engine, resident: AdapterCache) -> None:
        self._engine = engine
        self._resident = resident

    def collect(self) -> Iterator[Metric]:
        queue, resident = self._engine.queue, self._resident
        yield GaugeMetricFamily("adapterkit_queue_rows", "Rows that wait", queue.rows)
        yield GaugeMetricFamily("adapterkit_queue_tokens", "Tokens that wait", queue.tokens)
        yield GaugeMetricFamily("adapterkit_queue_tenants", "Tenants that wait", queue.tenants)
        yield CounterMetricFamily("adapterkit_loads", "Adapters read from disk", resident.loads)
        adapters = GaugeMetricFamily("adapterkit_resident_adapters", "Adapters", labels=["tier"])
        held = GaugeMetricFamily("adapterkit_resident_bytes", "Bytes held", labels=["tier"])
        evictions = CounterMetricFamily("adapterkit_evictions", "Adapters let go", labels=["tier"])
        for name, tier in resident.tiers.items():
            adapters.add_metric([name], len(tier))
            held.add_metric([name], tier.bytes)
            evictions.add_metric([name], tier.evictions)
        yield from (adapters, held, evictions)


LATELY = 10.0
"""Seconds over which latency is told."""


class Activity:
    """Sums since the start, and the latency of the last requests."""

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.tokens = 0
        self.batches = 0
        self._began = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque(maxlen=4096)

    def request(self, seconds: float) -> None:
        """A request was answered, so long after it came."""
        self.requests += 1
        self._recent.append((time.monotonic(), seconds))

    def batch(self, rows: int, tokens: int) -> None:
        """A batch was answered."""
        self.batches += 1
        self.rows += rows
        self.tokens += tokens

    def told(self) -> dict[str, float | None]:
        """Seconds since the start, sums, and the median latency of the last `LATELY` seconds in
        seconds (None where nobody asked)."""
        now = time.monotonic()
        lately = [seconds for at, seconds in self._recent if now - at <= LATELY]
        return {
            "uptime": round(now - self._began, 3),
            "requests": self.requests,
            "rows": self.rows,
            "tokens": self.tokens,
            "batches": self.batches,
            "p50": round(median(lately), 6) if lately else None,
        }
