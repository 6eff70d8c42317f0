"""The other replicas of a service on a cluster, which the coordinator knows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count

from ...errors import UnavailableError
from ..activity_report import activity_of
from ..json_logs import log
from ..metrics.merged_metrics import pack_metrics
from ..server_group import ServerGroup, ServerReport
from ..service import Service
from .coordinator import METRICS_EVERY, REPORT_SECONDS, Unload
from .coordinator_client import CoordinatorClient, unreadable
from .shared_quotas import SharedQuotas


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
        self._unloaded: frozenset[str] = frozenset()

    def start(self, service: Service) -> None:
        """Starts to report; must be called on the running event loop.

        Args:
            service: The service of this replica.
        """
        self._reporting = asyncio.get_running_loop().create_task(self._report_forever(service))

    async def reports(self, *, with_metrics: bool = True) -> Mapping[str, ServerReport]:
        reports: dict[str, ServerReport] | None = await self._coordinator.call(
            "reports", with_metrics=with_metrics
        )
        if reports is None:
            raise unreadable()
        return reports

    async def unload(self, name: str) -> None:
        await self._coordinator.call("unload", self.name, name)

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
        unloads: list[Unload] = await self._coordinator.call("report", self.name, report)
        for unload in unloads:
            if unload.number not in self._unloaded:
                service.cache.unload(unload.name)
        self._unloaded = frozenset(unload.number for unload in unloads)

    async def _report_forever(self, service: Service) -> None:
        for number in count():
            try:
                await self.report(service, with_metrics=number % METRICS_EVERY == 0)
            except UnavailableError:
                pass  # it is back soon, and the next report tells the same
            except Exception:  # without reports the others would take this replica for lost
                log.exception("a report to the other replicas failed")
            await asyncio.sleep(REPORT_SECONDS)
