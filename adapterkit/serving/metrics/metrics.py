"""The metrics of a server for Prometheus, and the few numbers that its page shows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from statistics import median

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ...names import BASE
from ...tasks.types import Answer
from ..engine.adapter_cache import AdapterCache, LoadedAdapter
from ..engine.engine import Engine, EngineObserver
from ..http.connections import Connections, Phase
from ..keys.wrong_keys import WrongKeys
from ..tracing import Traces
from .answer_watch import AnswerCollector, AnswerWatch
from .rollout_counts import RolloutCounter

MAX_ADAPTERS = 500
"""Most adapters that are counted by name. The others are counted as `_other`, so that the text of
the metrics stays short."""

SECONDS_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics(EngineObserver):
    """Counters and histograms of one server.

    Args:
        traces: Receives the stages as well.
    """

    def __init__(self, traces: Traces | None = None) -> None:
        self.traces = traces
        self.activity = Activity()
        self.registry = CollectorRegistry()
        self._stages = Histogram(
            "adapterkit_stage_seconds",
            "Seconds of a request by stage",
            ["stage"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._seconds = Histogram(
            "adapterkit_batch_seconds",
            "Seconds of a packed forward",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._sequences = Histogram(
            "adapterkit_batch_rows",
            "Rows of a batch; a long row counts once for each of its sequences",
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
        # The look-up of a label takes longer than the count, so its result is cached.
        self._stage_histogram = cache(self._stages.labels)
        self._status_counter = cache(self._requests.labels)
        self._adapter_counters: dict[str, Counter] = {}
        self.answers = AnswerWatch()
        self.registry.register(AnswerCollector(self.answers))

    def observe(self, engine: Engine, cache: AdapterCache) -> None:
        """Adds the state of the engine and of the cache at the time of a scrape."""
        self.registry.register(_StateCollector(engine, cache))

    def observe_wrong_keys(self, wrong_keys: WrongKeys) -> None:
        """Adds the number of wrong API keys at the time of a scrape."""
        self.registry.register(_WrongKeyCollector(wrong_keys))

    def observe_rollouts(self, counter: RolloutCounter) -> None:
        """Adds the counts of rollouts at the time of a scrape."""
        self.registry.register(counter)

    def observe_connections(self, connections: Connections) -> None:
        """Adds the open connections at the time of a scrape, and those that the server closed."""
        self.registry.register(_ConnectionCollector(connections))

    def stage(self, name: str, seconds: float) -> None:
        self._stage_histogram(name).observe(seconds)
        if self.traces is not None:
            self.traces.stage(name, seconds)

    def batch(self, sequences: int, tokens: int, seconds: float) -> None:
        self._sequences.observe(sequences)
        self._tokens.observe(tokens)
        self._seconds.observe(seconds)
        self.activity.batch(tokens)

    def request(self, status: int) -> None:
        """An HTTP request was answered."""
        self._status_counter(str(status)).inc()

    def rows(self, adapter: str, rows: int) -> None:
        """Rows of an adapter were answered."""
        counter = self._adapter_counters.get(adapter)
        if counter is None:
            name = adapter if len(self._adapter_counters) < MAX_ADAPTERS else "_other"
            counter = self._adapters.labels(name)
            if name == adapter:
                self._adapter_counters[name] = counter
        counter.inc(rows)

    def count_answers(self, rows: Iterable[tuple[LoadedAdapter | None, Answer]]) -> None:
        """Counts labels, scores and abstentions.

        Args:
            rows: The adapter of each row, None for the plain backbone, and its answer.
        """
        for loaded, answer in rows:
            decision = None if loaded is None else loaded.adapter.task.decision(answer)
            if loaded is None or decision is None:
                continue
            watched = self.answers.watched(loaded.version.name)
            if watched is not None:
                reference = loaded.adapter.trained_answers
                watched.count(decision, watched.version(loaded.version.number, reference))

    def text(self, may_see: Callable[[str], bool]) -> bytes:
        """All metrics in the text format of Prometheus.

        Args:
            may_see: Whether the rows of an adapter are among them.
        """
        visible = CollectorRegistry()
        visible.register(_VisibleCollector(self.registry, may_see))
        return generate_latest(visible)


class _VisibleCollector(Collector):
    """All metrics of a registry, without the rows of adapters that the caller may not see."""

    def __init__(self, registry: CollectorRegistry, may_see: Callable[[str], bool]) -> None:
        self._registry = registry
        self._may_see = may_see

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                one for one in metric.samples if self._may_see(one.labels.get("adapter", BASE))
            ]
            yield metric


class _StateCollector(Collector):
    def __init__(self, engine: Engine, cache: AdapterCache) -> None:
        self._engine = engine
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        queue, cache = self._engine.queue, self._cache
        untokenized = self._engine.untokenized
        weights = GaugeMetricFamily(
            "adapterkit_backbone_bytes", "Bytes of the weights of a backbone", labels=["backbone"]
        )
        for backbone in self._engine.backbones:
            weights.add_metric([backbone.name], backbone.n_bytes)
        yield weights
        yield GaugeMetricFamily(
            "adapterkit_untokenized_rows", "Rows that wait to be tokenised", untokenized.parts
        )
        yield GaugeMetricFamily(
            "adapterkit_queue_rows",
            "Rows that wait to be computed; a long row counts once for each of its sequences",
            queue.parts,
        )
        yield GaugeMetricFamily("adapterkit_queue_tokens", "Tokens that wait", queue.tokens)
        yield GaugeMetricFamily("adapterkit_queue_tenants", "Tenants that wait", queue.tenants)
        yield CounterMetricFamily("adapterkit_loads", "Adapters read from disk", cache.loads)
        yield CounterMetricFamily(
            "adapterkit_cache_hits", "Requested adapters that were in memory", cache.hits
        )
        yield CounterMetricFamily(
            "adapterkit_cache_misses",
            "Requested adapters that had to be loaded first",
            cache.misses,
        )
        adapters = GaugeMetricFamily(
            "adapterkit_resident_adapters", "Cached adapters", labels=["tier"]
        )
        sizes = GaugeMetricFamily(
            "adapterkit_resident_bytes", "Bytes of cached adapters", labels=["tier"]
        )
        evictions = CounterMetricFamily("adapterkit_evictions", "Evicted adapters", labels=["tier"])
        for name, tier in cache.tiers.items():
            adapters.add_metric([name], len(tier))
            sizes.add_metric([name], tier.bytes)
            evictions.add_metric([name], tier.evictions)
        yield from (adapters, sizes, evictions)


class _ConnectionCollector(Collector):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        limits = self._connections.limits
        yield GaugeMetricFamily("adapterkit_max_connections", "Most connections", limits.total)
        phases = GaugeMetricFamily("adapterkit_connections", "Open connections", labels=["phase"])
        for phase in Phase:
            phases.add_metric([phase.value], self._connections.count(phase))
        closed = CounterMetricFamily(
            "adapterkit_closed_connections",
            "Connections closed for a new one, refused, or too slow",
            labels=["reason"],
        )
        for reason, n in self._connections.closed.items():
            closed.add_metric([reason], n)
        yield from (phases, closed)


class _WrongKeyCollector(Collector):
    def __init__(self, wrong_keys: WrongKeys) -> None:
        self._wrong_keys = wrong_keys

    def collect(self) -> Iterator[Metric]:
        total = self._wrong_keys.total
        yield CounterMetricFamily("adapterkit_wrong_keys", "Requests with a wrong API key", total)


LATENCY_WINDOW = 10.0
"""Seconds over which the median latency is computed."""


class Activity:
    """Sums since the start, and the latency of recent requests."""

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.tokens = 0
        self.batches = 0
        self._started = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque(maxlen=4096)

    def request(self, rows: int, seconds: float) -> None:
        """A request was answered, `seconds` after it arrived."""
        self.requests += 1
        self.rows += rows
        self._recent.append((time.monotonic(), seconds))

    def batch(self, tokens: int) -> None:
        """A batch was computed."""
        self.batches += 1
        self.tokens += tokens

    def snapshot(self) -> dict[str, float | None]:
        """Seconds since the start, the sums, and the median latency in seconds of the requests of
        the last `LATENCY_WINDOW` seconds (None if there was no request)."""
        now = time.monotonic()
        recent = [seconds for at, seconds in self._recent if now - at <= LATENCY_WINDOW]
        return {
            "uptime": round(now - self._started, 3),
            "requests": self.requests,
            "rows": self.rows,
            "tokens": self.tokens,
            "batches": self.batches,
            "p50": round(median(recent), 6) if recent else None,
        }
