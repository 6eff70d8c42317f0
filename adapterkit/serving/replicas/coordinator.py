"""What the replicas of a service share: quotas, their reports, and adapters to unload.

It runs in a process of its own, as an actor of Ray. Nothing is stored: when it is lost, another one
begins with full quotas.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ..keys.token_bucket import TokenBucket
from ..server_group import ServerReport

LOST_SECONDS = 10.0
"""A replica that has not reported for this long is lost, and its last report is forgotten."""


class Coordinator:
    """Counts the quotas of all replicas, keeps their last reports, and tells each which adapters
    the others were asked to unload.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._reports: dict[str, tuple[float, ServerReport]] = {}
        self._unloads: dict[str, set[str]] = {}

    def take(self, tenant: str, unit: str, rate: float, amount: float) -> float | None:
        """Takes units from the quota of a tenant.

        Args:
            tenant: Its name.
            unit: The unit.
            rate: The quota in units per second. A quota that has changed begins anew.
            amount: Number of units.

        Returns:
            None if they were taken, else the seconds until there are enough.
        """
        return self._bucket(tenant, unit, rate).try_take(amount)

    def correct(self, tenant: str, unit: str, rate: float, difference: float) -> None:
        """Takes the difference between an amount and its estimate; arguments as in `take`."""
        self._bucket(tenant, unit, rate).correct(difference)

    def report(self, replica: str, report: ServerReport) -> list[str]:
        """Keeps the report of a replica. Without metrics, those of its report before stay.

        Returns:
            Names of adapters to unload since its report before.
        """
        _, before = self._reports.get(replica, (0.0, report))
        if report.metrics is None:
            report = replace(report, metrics=before.metrics)
        self._reports[replica] = (self._clock(), report)
        return sorted(self._unloads.pop(replica, ()))

    def reports(self) -> dict[str, ServerReport]:
        """The last report of each replica."""
        self._forget_lost()
        return {replica: report for replica, (_, report) in self._reports.items()}

    def unload(self, replica: str, name: str) -> None:
        """Lets the other replicas unload an adapter: the answer to their next report names it."""
        self._forget_lost()
        for other in self._reports.keys() - {replica}:
            self._unloads.setdefault(other, set()).add(name)

    def _bucket(self, tenant: str, unit: str, rate: float) -> TokenBucket:
        bucket = self._buckets.get((tenant, unit))
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[tenant, unit] = TokenBucket(rate, clock=self._clock)
        return bucket

    def _forget_lost(self) -> None:
        since = self._clock() - LOST_SECONDS
        self._reports = {name: kept for name, kept in self._reports.items() if kept[0] >= since}
        self._unloads = {
            name: kept for name, kept in self._unloads.items() if name in self._reports
        }
