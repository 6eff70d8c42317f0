"""Wrong API keys by client address, and how long their answers are delayed."""

from __future__ import annotations

import time
from asyncio import sleep
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import OverloadedError
from ..http.connections import LOG_SECONDS, network_of
from ..json_logs import log

FREE_ATTEMPTS = 5
"""Wrong keys of an address that are answered at once."""

FIRST_DELAY = 0.1
"""Seconds for which the next one waits. Each further one waits twice as long."""

MAX_DELAY = 3.0
"""Most seconds."""

FORGET_SECONDS = 300.0
"""Seconds without a wrong key after which an address begins anew."""

MAX_ADDRESSES = 4096
"""Most addresses that are remembered; the one that has been quiet for the longest time is
forgotten first."""

MAX_WAITING = 64
"""Most requests that wait at the same time, and `MAX_WAITING_PER_ADDRESS` of one address. Further
ones are refused at once, so that wrong keys cannot hold all connections."""

MAX_WAITING_PER_ADDRESS = 4


@dataclass
class _Address:
    """Wrong keys of one address.

    Attributes:
        attempts: Their number.
        latest: Time of the latest.
        waiting: Number of requests that wait for their answer.
    """

    attempts: int = 0
    latest: float = 0.0
    waiting: int = 0


class WrongKeys:
    """Delays the answers to wrong API keys, longer with each one of the same address.

    A right key is never delayed, whatever else comes from its address. An address is one IPv4
    address, or one IPv6 network of 64 bits.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        """Number of wrong keys since the start."""
        self._clock = clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._waiting = 0
        self._logged = float("-inf")
        self._total_logged = 0

    def __len__(self) -> int:
        return len(self._addresses)

    async def delay(self, host: str) -> None:
        """Counts a wrong key of an address, and waits before it is answered.

        Args:
            host: The address.

        Raises:
            OverloadedError: Too many requests with wrong keys wait already.
        """
        address = self._note(network_of(host))
        seconds = _delay(address.attempts)
        if seconds == 0.0:
            return
        self._log(host, address.attempts)
        if address.waiting >= MAX_WAITING_PER_ADDRESS or self._waiting >= MAX_WAITING:
            raise OverloadedError("too many requests with wrong API keys", seconds)
        address.waiting += 1
        self._waiting += 1
        try:
            await sleep(seconds)
        finally:
            address.waiting -= 1
            self._waiting -= 1

    def _note(self, network: str) -> _Address:
        now = self._clock()
        self.total += 1
        address = self._addresses.setdefault(network, _Address())
        self._addresses.move_to_end(network)
        if now - address.latest > FORGET_SECONDS:
            address.attempts = 0
        address.attempts += 1
        address.latest = now
        while len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        return address

    def _log(self, host: str, attempts: int) -> None:
        """Logs the latest address, if the last log record is old."""
        now = self._clock()
        if now - self._logged < LOG_SECONDS:
            return
        n_new = self.total - self._total_logged
        self._logged, self._total_logged = now, self.total
        facts = {"last_address": host, "attempts_of_address": attempts}
        log.warning(f"{n_new} requests had a wrong API key", extra={"facts": facts})


def _delay(attempts: int) -> float:
    """Seconds for which the answer to the latest of some wrong keys waits."""
    n_delayed = attempts - FREE_ATTEMPTS
    return min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(n_delayed - 1, 10)) if n_delayed > 0 else 0.0
