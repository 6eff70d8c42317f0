"""What the versions of rollouts have done since each began: rows, seconds, and agreement."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ...adapter.rollout import Rollout

MAX_ROLLOUTS = 200
"""Most rollouts whose counts are kept; those without a request for the longest time go first."""


@dataclass
class VersionCounts:
    """Requests that a version has computed.

    Attributes:
        requests: Their number.
        rows: Number of their rows for the alias.
        seconds: Sum of the seconds that they took, from the queue to the answers.
    """

    requests: int = 0
    rows: int = 0
    seconds: float = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """Counts a request."""
        self.requests += 1
        self.rows += rows
        self.seconds += seconds

    def to_json(self) -> dict[str, Any]:
        """The counts, with the mean seconds of a request (None without one)."""
        mean = round(self.seconds / self.requests, 6) if self.requests else None
        return {"requests": self.requests, "rows": self.rows, "mean_seconds": mean}


@dataclass
class RolloutCounts:
    """The counts of one rollout on this server.

    Attributes:
        rollout: The rollout.
        served: By version, the requests that it answered.
        shadow: The requests that the shadow computed.
        compared: Rows of the shadow with an answer or an error.
        agreed: Rows of the shadow with the answer that the caller got.
        skipped: Rows that the shadow did not compute, because the server was busy.
        is_ending: Whether the rule has decided, and the rollout is being ended.
    """

    rollout: Rollout
    served: dict[int, VersionCounts] = field(default_factory=dict)
    shadow: VersionCounts = field(default_factory=VersionCounts)
    compared: int = 0
    agreed: int = 0
    skipped: int = 0
    is_ending: bool = False

    @property
    def verdict(self) -> int | None:
        """The version at which the rule of the rollout ends it; None if it is not decided yet."""
        rule = self.rollout.rule
        if rule is None or self.is_ending or self.compared < rule.rows:
            return None
        agrees = self.agreed >= rule.agreement * self.compared
        return self.rollout.shadow if agrees else self.rollout.main

    def to_json(self) -> dict[str, Any]:
        """The rollout with its counts."""
        served = {str(version): one.to_json() for version, one in sorted(self.served.items())}
        agreement = round(self.agreed / self.compared, 6) if self.compared else None
        shadow = None
        if self.rollout.shadow is not None:
            shadow = {
                **self.shadow.to_json(),
                "compared": self.compared,
                "agreed": self.agreed,
                "skipped": self.skipped,
                "agreement": agreement,
            }
        return {**self.rollout.to_json(), "counts": {"served": served, "shadow": shadow}}


class RolloutCounter(Collector):
    """The counts of all rollouts. They begin again with every change of a rollout."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], RolloutCounts] = OrderedDict()

    def of(self, name: str, alias: str, rollout: Rollout) -> RolloutCounts:
        """The counts of a rollout."""
        key = (name, alias)
        counts = self._counts.get(key)
        if counts is None or counts.rollout != rollout:
            counts = self._counts[key] = RolloutCounts(rollout)
        self._counts.move_to_end(key)
        if len(self._counts) > MAX_ROLLOUTS:
            self._counts.popitem(last=False)
        return counts

    def to_json(self, name: str, rollouts: Mapping[str, Rollout]) -> dict[str, Any]:
        """The rollouts of an adapter by alias, with their counts.

        Args:
            name: The adapter.
            rollouts: Its rollouts by alias.
        """
        found = {}
        for alias, rollout in rollouts.items():
            counts = self._counts.get((name, alias))
            is_same = counts is not None and counts.rollout == rollout
            found[alias] = (counts if counts and is_same else RolloutCounts(rollout)).to_json()
        return found

    def collect(self) -> Iterator[Metric]:
        """The counts for Prometheus."""
        labels = ["adapter", "alias", "version", "role"]
        requests = CounterMetricFamily(
            "adapterkit_rollout_requests", "Requests of a rollout by version", labels=labels
        )
        rows = CounterMetricFamily(
            "adapterkit_rollout_rows", "Rows of a rollout by version", labels=labels
        )
        seconds = CounterMetricFamily(
            "adapterkit_rollout_seconds",
            "Seconds of the requests of a rollout by version",
            labels=labels,
        )
        outcomes = CounterMetricFamily(
            "adapterkit_shadow_rows",
            "Rows of a shadow that agreed, disagreed or were skipped",
            labels=["adapter", "alias", "version", "outcome"],
        )
        for (name, alias), counts in list(self._counts.items()):
            shadow = counts.rollout.shadow
            parts = [(str(one), "served", counts.served[one]) for one in sorted(counts.served)]
            if shadow is not None:
                parts.append((str(shadow), "shadow", counts.shadow))
                for outcome, n in (
                    ("agreed", counts.agreed),
                    ("disagreed", counts.compared - counts.agreed),
                    ("skipped", counts.skipped),
                ):
                    outcomes.add_metric([name, alias, str(shadow), outcome], n)
            for version, role, one in parts:
                requests.add_metric([name, alias, version, role], one.requests)
                rows.add_metric([name, alias, version, role], one.rows)
                seconds.add_metric([name, alias, version, role], one.seconds)
        yield from (requests, rows, seconds, outcomes)
