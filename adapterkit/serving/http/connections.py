"""The open connections of a server, and which of them are closed when there are too many."""

from __future__ import annotations

import ipaddress
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ...errors import AdapterkitError
from ..json_logs import log

MAX_CONNECTIONS = 4096
"""Most connections if the descriptor limit allows more."""

RESERVED_DESCRIPTORS = 256
"""Descriptors that are left for files, and for connections that the kernel has already accepted."""

LOG_SECONDS = 10.0
"""Least seconds between two log records about the limits."""


class Phase(Enum):
    """What a connection does.

    Attributes:
        IDLE: It has no request, or sends the head of one.
        RECEIVING: It sends the body of a request.
        ANSWERING: Its request is complete, and is computed or answered.
    """

    IDLE = "idle"
    RECEIVING = "receiving"
    ANSWERING = "answering"


class OpenConnection(Protocol):
    """A connection that can be closed to make room."""

    def abort(self) -> None:
        """Closes it at once."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Most open connections.

    Attributes:
        total: Of all addresses.
        per_address: Of one IPv4 address, or of one IPv6 network of 64 bits.
    """

    total: int
    per_address: int

    @classmethod
    def of_process(
        cls, total: int | None = None, per_address: int | None = None
    ) -> ConnectionLimits:
        """Limits that the descriptors of this process allow.

        Args:
            total: If None, as many as possible, up to `MAX_CONNECTIONS`.
            per_address: If None, half of all.

        Raises:
            AdapterkitError: `total` is more than the descriptors allow.
        """
        most = _max_connections()
        if total is not None and total > most:
            raise AdapterkitError(
                f"--max-connections {total}: the descriptor limit of this process allows {most} "
                f"(ulimit -n {total + RESERVED_DESCRIPTORS} raises it)"
            )
        total = total or min(most, MAX_CONNECTIONS)
        return cls(total, min(per_address or max(1, total // 2), total))


class Connections:
    """The open connections of a server.

    At a limit, a new connection replaces the one that has been silent for the longest time: first
    one without a request, then one whose request is not complete. Connections whose request is
    complete stay. If there are only such connections, the new one is refused.

    Args:
        limits: The limits.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, limits: ConnectionLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.closed: Counter[str] = Counter({"replaced": 0, "refused": 0, "too slow": 0})
        """Number of connections that the server closed, by reason."""
        self._clock = clock
        self._all = _Group(limits.total)
        self._groups: dict[str, _Group] = {}
        self._addresses: dict[OpenConnection, str] = {}
        self._logged = float("-inf")
        self._last_closed = self.closed.copy()

    def __len__(self) -> int:
        return len(self._addresses)

    def count(self, phase: Phase) -> int:
        """Number of connections in a phase."""
        return len(self._all.members[phase])

    def open(self, connection: OpenConnection, host: str) -> bool:
        """Adds a connection, for which others may be closed.

        Args:
            connection: The new connection.
            host: Address of its client.

        Returns:
            Whether there is room for it.
        """
        address = network_of(host)
        group = self._groups.get(address) or _Group(self.limits.per_address)
        for full in (group, self._all):
            if full.n_members < full.limit:
                continue
            silent = full.longest_silent()
            if silent is None:
                self.note("refused", host)
                return False
            self.close(silent)
            silent.abort()
            self.note("replaced", host)
        self._groups[address] = group
        self._addresses[connection] = address
        for one in (group, self._all):
            one.set_phase(connection, Phase.IDLE)
        return True

    def set_phase(self, connection: OpenConnection, phase: Phase) -> None:
        """Notes that a connection has sent something, or was answered, and what it does now."""
        address = self._addresses.get(connection)
        if address is not None:
            self._groups[address].set_phase(connection, phase)
            self._all.set_phase(connection, phase)

    def close(self, connection: OpenConnection) -> None:
        """Removes a connection, which may have been removed before."""
        address = self._addresses.pop(connection, None)
        if address is None:
            return
        self._all.remove(connection)
        group = self._groups[address]
        group.remove(connection)
        if not group.n_members:
            del self._groups[address]

    def note(self, reason: str, host: str) -> None:
        """Counts a connection that the server closed, and logs it if the last log record is old."""
        self.closed[reason] += 1
        now = self._clock()
        if now - self._logged < LOG_SECONDS:
            return
        since_then = self.closed - self._last_closed
        self._logged, self._last_closed = now, self.closed.copy()
        facts = {"open": len(self), **vars(self.limits), "last_address": host}
        counts = ", ".join(f"{n} {reason}" for reason, n in since_then.items())
        log.warning(f"connections were closed: {counts}", extra={"facts": facts})


class _Group:
    """Connections with one limit, by phase, the longest silent first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.members: dict[Phase, OrderedDict[OpenConnection, None]] = {
            phase: OrderedDict() for phase in Phase
        }
        self._phases: dict[OpenConnection, Phase] = {}

    @property
    def n_members(self) -> int:
        return len(self._phases)

    def set_phase(self, connection: OpenConnection, phase: Phase) -> None:
        before = self._phases.get(connection)
        if before is phase:
            self.members[phase].move_to_end(connection)
            return
        if before is not None:
            del self.members[before][connection]
        self.members[phase][connection] = None
        self._phases[connection] = phase

    def remove(self, connection: OpenConnection) -> None:
        del self.members[self._phases.pop(connection)][connection]

    def longest_silent(self) -> OpenConnection | None:
        for phase in (Phase.IDLE, Phase.RECEIVING):
            if self.members[phase]:
                return next(iter(self.members[phase]))
        return None


def network_of(host: str) -> str:
    """The address that is limited: one client has a whole IPv6 network of 64 bits."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


def _max_connections() -> int:
    """Most connections that the descriptor limit of this process allows."""
    if sys.platform == "win32":  # there is no such limit
        return MAX_CONNECTIONS
    import resource

    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return 1_000_000
    return max(descriptors - RESERVED_DESCRIPTORS, descriptors // 4, 1)
