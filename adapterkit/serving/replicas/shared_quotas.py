"""The quotas of tenants, which all replicas of a service count together."""

from __future__ import annotations

from ..keys.api_keys import Tenant, Unit
from ..keys.quotas import Quotas
from ..keys.token_bucket import quota_error
from .coordinator_client import CoordinatorClient


class SharedQuotas(Quotas):
    """Takes units from quotas that all replicas share. The coordinator counts them, and is asked
    for tenants that have a quota only.

    Args:
        coordinator: The coordinator.
    """

    def __init__(self, coordinator: CoordinatorClient) -> None:
        self._coordinator = coordinator

    async def take(self, tenant: Tenant, unit: Unit, amount: float) -> None:
        rate = tenant.bucket(unit).rate
        if rate is None:
            return
        wait = await self._coordinator.call("take", tenant.name, unit, rate, amount)
        if wait is not None:
            raise quota_error(rate, unit, wait)

    def correct(self, tenant: Tenant, unit: Unit, difference: float) -> None:
        rate = tenant.bucket(unit).rate
        if rate is not None:
            self._coordinator.send("correct", tenant.name, unit, rate, difference)
