"""A quota: units that refill at a constant rate."""

from __future__ import annotations

import time

from ..errors import OverloadedError


class TokenBucket:
    """A token bucket, which holds the units of at most ten seconds.

    Args:
        rate: Units per second; None for no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._capacity = 10.0 * rate if rate is not None else 0.0
        self._level = self._capacity
        self._updated = time.monotonic()

    def take(self, amount: float, what: str) -> None:
        """Takes units from the bucket.

        An amount above the capacity is taken if the bucket is not empty, and leaves a negative
        level.

        Args:
            amount: Number of units.
            what: Name of the unit in messages.

        Raises:
            OverloadedError: The bucket has too few units.
        """
        if self.rate is None:
            return
        now = time.monotonic()
        self._level = min(self._capacity, self._level + (now - self._updated) * self.rate)
        self._updated = now
        if self._level <= 0.0 or (self._level < amount <= self._capacity):
            wait = (min(amount, self._capacity) - self._level) / self.rate
            raise OverloadedError(f"the quota of {self.rate:g} {what} per second is used up", wait)
        self._level -= amount

    def correct(self, difference: float) -> None:
        """Takes the difference between an amount and its estimate, which was taken before; a
        negative one is put back."""
        if self.rate is not None:
            self._level = min(self._capacity, self._level - difference)
