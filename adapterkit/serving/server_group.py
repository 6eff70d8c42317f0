"""The other servers of a service. A plain server has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .keys.quotas import Quotas


@dataclass(frozen=True)
class ServerReport:
    """The state of a server, which every other one of its group can show.

    Attributes:
        activity: Its activity, as `activity_of` returns it.
        metrics: Its metrics, as `pack_metrics` returns them; None if it has not sent them lately.
    """

    activity: dict[str, Any]
    metrics: bytes | None = None


class ServerGroup:
    """The servers that answer for one service together: by default a single one.

    Args:
        name: Name of this server among them; empty if there are no others.
        quotas: Counts the quotas of tenants.
    """

    def __init__(self, name: str = "", quotas: Quotas | None = None) -> None:
        self.name = name
        self.quotas = quotas or Quotas()

    async def reports(self, *, with_metrics: bool = True) -> Mapping[str, ServerReport]:
        """The last report of every server, also of this one, by name.

        Args:
            with_metrics: Whether they have their metrics.

        Raises:
            UnavailableError: They cannot be read now.
        """
        return {}

    async def unload(self, name: str) -> None:
        """Lets the other servers remove all versions of an adapter from memory.

        Raises:
            UnavailableError: They cannot be reached now.
        """
