"""The quotas of tenants."""

from __future__ import annotations

from .api_keys import Tenant, Unit


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
