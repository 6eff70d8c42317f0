"""What the replicas of a service share: quotas, their reports, and adapters to unload.

It runs in a process of its own, as an actor of Ray. Nothing is stored: when it is lost, another one
begins with full quotas.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from ..keys.token_bucket import TokenBucket
from ..server_group import ServerReport

REPORT_SECONDS = 1.0
"""Seconds between two reports of a replica."""

METRICS_EVERY = 3
"""Every how many reports have the metrics, whose thousands of samples take some milliseconds."""

FIRST_SECONDS = REPORT_SECONDS * (METRICS_EVERY + 1)
"""Seconds in which each replica has sent a whole report to a new coordinator."""

LOST_SECONDS = 10.0
"""A replica that has not reported for this long is lost, and its last report is forgotten."""


@dataclass(frozen=True)
class Unload:
    """An adapter to unload.

    Attributes:
        number: A random number, by which a replica that has done it knows it again.
        replica: The replica that was asked, and has done it.
        name: The adapter.
    """

    number: str
    replica: str
    name: str


class Coordinator:
    """Counts the quotas of all replicas, keeps their last reports, and tells each which adapters
    the others were asked to unload.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._complete_at = clock() + FIRST_SECONDS
        self._buckets: dict[tuple[str, str, float], TokenBucket] = {}
        self._reports: dict[str, tuple[float, ServerReport]] = {}
        self._unloads: list[tuple[float, Unload]] = []

    def take(self, tenant: str, unit: str, rate: float, amount: float) -> float | None:
        """Takes units from the quota of a tenant.

        Args:
            tenant: Its name.
            unit: The unit.
            rate: The quota in units per second. A quota that has changed begins anew; the one
                before is counted on for replicas that do not know the change yet.
            amount: Number of units.

        Returns:
            None if they were taken, else the seconds until there are enough.
        """
        return self._bucket(tenant, unit, rate).try_take(amount)

    def correct(self, tenant: str, unit: str, rate: float, difference: float) -> None:
        """Takes the difference between an amount and its estimate; arguments as in `take`."""
        self._bucket(tenant, unit, rate).correct(difference)

    def report(self, replica: str, report: ServerReport) -> list[Unload]:
        """Keeps the report of a replica. Without metrics, those of its report before stay.

        Returns:
            What the others were asked to unload in the last `LOST_SECONDS`: an answer may be lost,
            so each is given several times.
        """
        _, before = self._reports.get(replica, (0.0, report))
        if report.metrics is None:
            report = replace(report, metrics=before.metrics)
        self._reports[replica] = (self._clock(), report)
        self._forget()
        return [unload for _, unload in self._unloads if unload.replica != replica]

    def reports(self, *, with_metrics: bool = True) -> dict[str, ServerReport] | None:
        """The last report of each replica; None in the first seconds, while some are missing.

        Args:
            with_metrics: Whether they have their metrics, a megabyte of each replica.
        """
        self._forget()
        if self._clock() < self._complete_at:
            return None
        return {
            replica: report if with_metrics else replace(report, metrics=None)
            for replica, (_, report) in self._reports.items()
        }

    def unload(self, replica: str, name: str) -> None:
        """Lets the other replicas unload an adapter: the answer to their next report names it."""
        self._unloads.append((self._clock(), Unload(uuid4().hex, replica, name)))

    def _bucket(self, tenant: str, unit: str, rate: float) -> TokenBucket:
        bucket = self._buckets.get((tenant, unit, rate))
        if bucket is None:
            bucket = self._buckets[tenant, unit, rate] = TokenBucket(rate, clock=self._clock)
        return bucket

    def _forget(self) -> None:
        """Forgets lost replicas, and what all others have unloaded."""
        since = self._clock() - LOST_SECONDS
        self._reports = {name: kept for name, kept in self._reports.items() if kept[0] >= since}
        self._unloads = [kept for kept in self._unloads if kept[0] >= since]
