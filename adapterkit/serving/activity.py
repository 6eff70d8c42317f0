"""What a server did since it began and how fast it is now, in numbers that name nobody."""

from __future__ import annotations

import time
from collections import deque
from statistics import median

LATELY = 10.0
"""Seconds over which latency is told."""


class Activity:
    """Sums since the start, and the latency of the last requests."""

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.tokens = 0
        self.batches = 0
        self._began = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque(maxlen=4096)

    def request(self, seconds: float) -> None:
        """A request was answered, so long after it came."""
        self.requests += 1
        self._recent.append((time.monotonic(), seconds))

    def batch(self, rows: int, tokens: int) -> None:
        """A batch was answered."""
        self.batches += 1
        self.rows += rows
        self.tokens += tokens

    def told(self) -> dict[str, float | None]:
        """Seconds since the start, sums, and the median latency of the last `LATELY` seconds in
        seconds (None where nobody asked)."""
        now = time.monotonic()
        lately = [seconds for at, seconds in self._recent if now - at <= LATELY]
        return {
            "uptime": round(now - self._began, 3),
            "requests": self.requests,
            "rows": self.rows,
            "tokens": self.tokens,
            "batches": self.batches,
            "p50": round(median(lately), 6) if lately else None,
        }
