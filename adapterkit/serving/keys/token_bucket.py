"""A quota: units that refill at a constant rate."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...errors import OverloadedError


class TokenBucket:
    """A token bucket, which holds the units of at most ten seconds.

    Args:
        rate: Units per second; None for no limit.
        clock: Returns the time in seconds.
    """

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._capacity = 10.0 * rate if rate is not None else 0.0
        self._level = self._capacity
        self._clock = clock
        self._updated = clock()

    def take(self, amount: float, what: str) -> None:
        """Takes units from the bucket.

        Args:
            amount: Number of units.
            what: Name of the unit in messages.

        Raises:
            OverloadedError: The bucket has too few units.
        """
        wait = self.try_take(amount)
        if self.rate is not None and wait is not None:
            raise quota_error(self.rate, what, wait)

    def try_take(self, amount: float) -> float | None:
        """Takes units from the bucket, if it has enough of them.

        An amount above the capacity is taken if the bucket is not empty, and leaves a negative
        level.

        Args:
            amount: Number of units.

        Returns:
            None if they were taken, else the seconds until there are enough.
        """
        if self.rate is None:
            return None
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._updated) * self.rate)
        self._updated = now
        if self._level <= 0.0 or (self._level < amount <= self._capacity):
            return (min(amount, self._capacity) - self._level) / self.rate
        self._level -= amount
        return None

    def correct(self, difference: float) -> None:
        """Takes the difference between an amount and its estimate, which was taken before; a
        negative one is put back."""
        if self.rate is not None:
            self._level = min(self._capacity, self._level - difference)


def quota_error(rate: float, what: str, wait: float) -> OverloadedError:
    """The error of a request that exceeds a quota.

    Args:
        rate: Units per second.
        what: Name of the unit.
        wait: Seconds until there are enough units.
    """
    return OverloadedError(f"the quota of {rate:g} {what} per second is used up", wait)
