"""Counts of the answers of each adapter: since the start of the server, and in windows of time."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ...tasks.answer_distribution import CONFIDENCE_EDGES, AnswerDistribution
from ...tasks.drift import OTHER, Drift
from ...tasks.types import Decision

MAX_WATCHED = 100
"""Most adapters whose answers are counted: the first that answer. Each has up to 60 lines in the
text of the metrics."""

MAX_LABELS = 40
"""Most labels of an adapter that are counted by name, the most frequent of its training first. The
others are counted together as `_other`."""

MAX_VERSIONS = 3
"""Most versions of an adapter with windows of time: those that answered last."""

WINDOW = 600
"""Seconds of a window."""

KEPT_WINDOWS = 144
"""Windows that are kept: a day, so that day and night are both in it."""

LEAST_ROWS = 100
"""Least answers in the windows for the gauges of drift: those of a few answers would be chance."""


class AnswerWindows:
    """The answers of one version in windows of time.

    Args:
        reference: The distribution of its answers after training, if its card has it.
        clock: Seconds, as `time.monotonic`.

    Attributes:
        kept: The answers of all windows together.
    """

    def __init__(self, reference: AnswerDistribution | None, clock: Callable[[], float]) -> None:
        self.reference = reference
        self.kept = AnswerDistribution()
        self._clock = clock
        self._windows: deque[tuple[int, AnswerDistribution]] = deque()

    def count(self, decision: Decision) -> None:
        """Adds an answer to the present window."""
        number = self.forget()
        if not self._windows or self._windows[-1][0] != number:
            self._windows.append((number, AnswerDistribution()))
        self._windows[-1][1].count(decision)
        self.kept.count(decision)

    def forget(self) -> int:
        """Drops the windows that have become too old; returns the number of the present one."""
        number = int(self._clock() // WINDOW)
        while self._windows and self._windows[0][0] <= number - KEPT_WINDOWS:
            self.kept.add(self._windows.popleft()[1], times=-1)
        return number

    def since(self, seconds: float) -> AnswerDistribution:
        """The answers of the windows that end less than some seconds ago."""
        first, total = int((self._clock() - seconds) // WINDOW), AnswerDistribution()
        for number, window in self._windows:
            if number >= first:
                total.add(window)
        return total


class WatchedAdapter:
    """The counts of one adapter.

    Args:
        clock: As in `AnswerWindows`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.total = AnswerDistribution()
        self.windows: OrderedDict[int, AnswerWindows] = OrderedDict()
        self._clock = clock
        self._labels: set[str] = set()

    def version(self, number: int, reference: AnswerDistribution | None) -> AnswerWindows:
        """The windows of a version, which becomes the one that answered last."""
        windows = self.windows.get(number)
        if windows is None:
            windows = self.windows[number] = AnswerWindows(reference, self._clock)
            known = {} if reference is None else reference.labels
            for label in sorted(known, key=lambda one: -known[one]):
                self._label(label)
            if len(self.windows) > MAX_VERSIONS:
                self.windows.popitem(last=False)
        self.windows.move_to_end(number)
        return windows

    def count(self, decision: Decision, windows: AnswerWindows) -> None:
        """Counts an answer of a version."""
        labels = tuple(dict.fromkeys(map(self._label, decision.labels)))
        bounded = Decision(labels, decision.confidence)
        self.total.count(bounded)
        windows.count(bounded)

    def _label(self, label: str) -> str:
        if label not in self._labels:
            if len(self._labels) >= MAX_LABELS:
                return OTHER
            self._labels.add(label)
        return label


class AnswerWatch:
    """The counts of the adapters of one server.

    Args:
        clock: As in `AnswerWindows`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.adapters: dict[str, WatchedAdapter] = {}
        self._clock = clock

    def windows(self, name: str, version: int) -> AnswerWindows | None:
        """The windows of a version; None if it has not answered, or not lately."""
        watched = self.adapters.get(name)
        return None if watched is None else watched.windows.get(version)

    def watched(self, name: str) -> WatchedAdapter | None:
        """The counts of an adapter, which are begun if there are not too many."""
        found = self.adapters.get(name)
        if found is None and len(self.adapters) < MAX_WATCHED:
            found = self.adapters[name] = WatchedAdapter(self._clock)
        return found


class AnswerCollector(Collector):
    """The counts and the drift of a watch at the time of a scrape.

    Args:
        watch: The watch.
    """

    def __init__(self, watch: AnswerWatch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        yield from self._counts()
        yield from self._drift()

    def _counts(self) -> Iterator[Metric]:
        labels = CounterMetricFamily(
            "adapterkit_answers", "Answers with a label", labels=["adapter", "label"]
        )
        abstentions = CounterMetricFamily(
            "adapterkit_abstentions", "Answers without a label", labels=["adapter"]
        )
        confidence = HistogramMetricFamily(
            "adapterkit_confidence", "Scores of answers", labels=["adapter"]
        )
        for name, watched in self._watch.adapters.items():
            total = watched.total
            for label, n in total.labels.items():
                labels.add_metric([name, label], n)
            abstentions.add_metric([name], total.abstained)
            confidence.add_metric([name], _cumulated(total), total.confidence_sum)
        yield from (labels, abstentions, confidence)

    def _drift(self) -> Iterator[Metric]:
        """The drift of the version that answered last, over all windows."""
        gauges = {
            "psi": ("adapterkit_drift_psi", "Population stability index of a day's answers"),
            "limit": ("adapterkit_drift_psi_limit", "What it exceeds by chance once in a hundred"),
            "js_distance": ("adapterkit_drift_js_distance", "Jensen-Shannon distance of them"),
        }
        families = {
            key: GaugeMetricFamily(*words, labels=["adapter", "of"])
            for key, words in gauges.items()
        }
        for name, watched in self._watch.adapters.items():
            windows = watched.windows[next(reversed(watched.windows))]
            windows.forget()
            if windows.reference is None or windows.kept.rows < LEAST_ROWS:
                continue
            for kind, one in Drift.between(windows.reference, windows.kept).parts.items():
                for key, family in families.items():
                    family.add_metric([name, kind], getattr(one, key))
        yield from families.values()


def _cumulated(counts: AnswerDistribution) -> list[tuple[str, float]]:
    """The buckets of a histogram of Prometheus: upper edge, and number of scores up to it."""
    buckets, n = [], 0
    for edge, more in zip(CONFIDENCE_EDGES, counts.confidence, strict=True):
        n += more
        buckets.append((str(edge), float(n)))
    return [*buckets, ("+Inf", float(n))]
