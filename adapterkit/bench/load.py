"""A load generator: sends each request when it is due and records the reply."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .connection import Connection, TimedReply

CONNECTION_FAILED = "connection"
TIMED_OUT = "timeout"
"""Counted in place of an HTTP status if there was no reply."""

RETRY_DELAY = 0.05
"""Seconds before the next request if the server cannot be reached."""


@dataclass(frozen=True)
class Target:
    """The server and route that requests are sent to.

    Attributes:
        url: URL of the server, as `Client` takes it.
        path: The route.
        key: API key, if the server has keys.
        timeout: Seconds to wait for a reply.
    """

    url: str
    path: str
    key: str | None = None
    timeout: float = 30.0


@dataclass
class Tally:
    """Counts of the requests that end within a span of time; the others do not count.

    Attributes:
        began: Begin of the span, on the clock of `time.perf_counter`.
        ended: End of the span, exclusive.
        seconds: Time of every request that was answered with 200, from when it was due.
        statuses: Number of requests by status.
        first_errors: Message of the first request with each other status.
    """

    began: float
    ended: float
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    first_errors: dict[str, str] = field(default_factory=dict)

    def record(self, due: float, status: str, content: Any) -> None:
        """Counts a request that ends now."""
        now = time.perf_counter()
        if not self.began <= now < self.ended:
            return
        self.statuses[status] += 1
        if status == "200":
            self.seconds.append(now - due)
        elif status not in self.first_errors:
            self.first_errors[status] = _message(content)


async def drive(
    target: Target,
    bodies: Iterator[bytes],
    schedule: Iterable[float],
    senders: int,
    tally: Tally,
) -> None:
    """Sends each body when it is due, and waits for the replies.

    Args:
        target: Server and route.
        bodies: The bodies, in the order in which they are sent.
        schedule: When each request is due, on the clock of `time.perf_counter`.
        senders: Largest number of requests under way at once.
        tally: Where replies are counted.
    """
    idle: list[Connection] = []
    due_times = iter(schedule)

    async def send() -> None:
        for due in due_times:  # shared: each request is due once
            body = next(bodies)
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            # The connection used last, so that no more stay open than are needed.
            connection = idle.pop() if idle else Connection(target.url, target.key)
            try:
                await _exchange(connection, target, body, due, tally)
            finally:
                idle.append(connection)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(senders):
                group.create_task(send())
    finally:
        for connection in idle:
            connection.close()


async def _exchange(
    connection: Connection, target: Target, body: bytes, due: float, tally: Tally
) -> None:
    try:
        async with asyncio.timeout(target.timeout):
            reply: TimedReply = await connection.send("POST", target.path, body)
    except TimeoutError:
        connection.close()
        tally.record(due, TIMED_OUT, f"no answer within {target.timeout:g} s")
        return
    if reply.status:
        tally.record(due, str(reply.status), reply.content)
        return
    tally.record(due, CONNECTION_FAILED, reply.content)
    await asyncio.sleep(RETRY_DELAY)


def _message(content: Any) -> str:
    if isinstance(content, Mapping) and "error" in content:
        return str(content["error"])
    return content[:200].decode(errors="replace") if isinstance(content, bytes) else str(content)
