"""A load generator: sends each request when it is due and takes down what came of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .wire import TimedReply, Wire

BROKEN = "connection"
LATE = "timeout"
"""What is counted in place of a status where there was none."""

PAUSE = 0.05
"""Seconds before the next attempt where the server cannot be reached."""


@dataclass(frozen=True)
class Target:
    """Where requests go.

    Attributes:
        url: The server's, as `Client` takes it.
        path: The route.
        key: API key, where the server has keys.
        timeout: Seconds to wait for an answer.
    """

    url: str
    path: str
    key: str | None = None
    timeout: float = 30.0


@dataclass
class Tally:
    """What came of the requests that count, which are those that end in a span of time.

    Attributes:
        began: The span begins, on the clock of `time.perf_counter`.
        ended: It ends.
        seconds: Of every request that was answered with 200, from when it was due.
        statuses: How many had each status.
        said: What the first of each other status said.
    """

    began: float
    ended: float
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    said: dict[str, str] = field(default_factory=dict)

    def note(self, due: float, status: str, content: Any) -> None:
        """Takes down a request that ended now."""
        now = time.perf_counter()
        if not self.began <= now < self.ended:
            return
        self.statuses[status] += 1
        if status == "200":
            self.seconds.append(now - due)
        elif status not in self.said:
            self.said[status] = _message(content)


async def drive(
    target: Target,
    bodies: Iterator[bytes],
    schedule: Iterable[float],
    senders: int,
    tally: Tally,
) -> None:
    """Sends each body when it is due, and waits for all that were sent.

    Args:
        target: Where to.
        bodies: What is sent, in this order.
        schedule: When each is due, on the clock of `time.perf_counter`.
        senders: Most requests under way at once.
        tally: Where answers are taken down.
    """
    idle: list[Wire] = []
    due_times = iter(schedule)

    async def send() -> None:
        for due in due_times:  # shared: each request is due once
            body = next(bodies)
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            # The one used last, so that few stay open where few are needed.
            wire = idle.pop() if idle else Wire(target.url, target.key)
            try:
                await _exchange(wire, target, body, due, tally)
            finally:
                idle.append(wire)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(senders):
                group.create_task(send())
    finally:
        for wire in idle:
            wire.close()


async def _exchange(wire: Wire, target: Target, body: bytes, due: float, tally: Tally) -> None:
    try:
        async with asyncio.timeout(target.timeout):
            reply: TimedReply = await wire.send("POST", target.path, body)
    except TimeoutError:
        wire.close()
        tally.note(due, LATE, f"no answer within {target.timeout:g} s")
        return
    if reply.status:
        tally.note(due, str(reply.status), reply.content)
        return
    tally.note(due, BROKEN, reply.content)
    await asyncio.sleep(PAUSE)


def _message(content: Any) -> str:
    if isinstance(content, Mapping) and "error" in content:
        return str(content["error"])
    return content[:200].decode(errors="replace") if isinstance(content, bytes) else str(content)
