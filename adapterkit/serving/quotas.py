"""The quotas of tenants, which one server counts alone or several count together."""

from __future__ import annotations

from .api_keys import Tenant, Unit
from .coordinator_client import CoordinatorClient
from .token_bucket import quota_error


class Quotas:
    """Takes units from the quotas of tenants. This server counts them alone."""

    async def take(self, tenant: Tenant, unit: Unit, amount: float) -> None:
        """Takes units from a quota.

        Raises:
            OverloadedError: The quota is used up.
            UnavailableError: It cannot be read now.
        """
        tenant.bucket(unit).take(amount, unit)

    def correct(self, tenant: Tenant, unit: Unit, difference: float) -> None:
        """Takes the difference between an amount and its estimate, which was taken before; a
        negative one is put back."""
        tenant.bucket(unit).correct(difference)


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
