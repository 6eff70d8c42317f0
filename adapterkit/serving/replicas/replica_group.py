"""The other replicas of a service on a cluster, which the coordinator knows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from itertools import count

from ...errors import UnavailableError
from ..activity_report import activity_of
from ..metrics.merged_metrics import pack_metrics
from ..server_group import ServerGroup, ServerReport
from ..service import Service
from .coordinator_client import CoordinatorClient
from .shared_quotas import SharedQuotas

REPORT_SECONDS = 1.0
"""Seconds between two reports of a replica."""

METRICS_EVERY = 3
"""Every how many reports have the metrics, whose thousands of samples take some milliseconds."""


class ReplicaGroup(ServerGroup):
    """The replicas of a service.

    Args:
        name: Name of this one.
        coordinator: What they share.
    """

    def __init__(self, name: str, coordinator: CoordinatorClient) -> None:
        super().__init__(name, SharedQuotas(coordinator))
        self._coordinator = coordinator
        self._reporting: asyncio.Task[None] | None = None

    def start(self, service: Service) -> None:
        """Starts to report; must be called on the running event loop.

        Args:
            service: The service of this replica.
        """
        self._reporting = asyncio.get_running_loop().create_task(self._report_forever(service))

    async def reports(self) -> Mapping[str, ServerReport]:
        reports: dict[str, ServerReport] = await self._coordinator.call("reports")
        return reports

    def unload(self, name: str) -> None:
        self._coordinator.send("unload", self.name, name)

    async def report(self, service: Service, *, with_metrics: bool = True) -> None:
        """Reports once, and unloads what other replicas were asked to unload.

        Args:
            service: The service of this replica.
            with_metrics: Whether its metrics are in the report.

        Raises:
            UnavailableError: The coordinator is away.
        """
        packed = None
        if with_metrics:
            metrics = list(service.metrics.registry.collect())
            packed = await service.in_thread(pack_metrics, metrics)
        report = ServerReport(activity_of(service), packed)
        for name in await self._coordinator.call("report", self.name, report):
            service.cache.unload(name)

    async def _report_forever(self, service: Service) -> None:
        for number in count():
            with suppress(UnavailableError):  # it is back soon, and the next report tells the same
                await self.report(service, with_metrics=number % METRICS_EVERY == 0)
            await asyncio.sleep(REPORT_SECONDS)
