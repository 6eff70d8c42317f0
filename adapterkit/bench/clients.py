"""Clients that put load on a server and compare each answer with the expected one."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from .connection import Connection, TimedReply
from .population import same_answer, task_input, without_adapter


@dataclass
class Load:
    """What clients measured.

    Attributes:
        seconds: Time of each request that was answered with 200.
        statuses: Number of replies by HTTP status.
        wrong: Number of answers that differ from the expected ones.
        rows: Number of rows answered.
        began: When the load began, on the clock of `time.perf_counter`.
        lasted: How many seconds it lasted.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    rows: int = 0
    began: float = field(default_factory=time.perf_counter)
    lasted: float = 0.0

    def record(self, reply: TimedReply, rows: int, right: bool = True) -> None:
        """Counts one reply."""
        self.statuses[reply.status] += 1
        if reply.status == 200:
            self.seconds.append(reply.seconds)
            self.rows += rows
            self.wrong += not right

    @property
    def n_requests(self) -> int:
        """Number of requests, answered or not."""
        return self.statuses.total()

    @property
    def n_errors(self) -> int:
        """Number of requests that were not answered with 200."""
        return self.n_requests - self.statuses[200]

    def quantile(self, share: float) -> float:
        """The quantile of the times, in milliseconds; NaN for fewer than two answers."""
        if len(self.seconds) < 2:
            return math.nan
        return round(1000 * quantiles(self.seconds, n=1000)[round(share * 1000) - 1], 1)

    def summary(self) -> dict[str, Any]:
        """Requests, errors, wrong answers, rows a second and quantiles of the times."""
        return {
            "requests": self.n_requests,
            "not answered": self.n_errors,
            "wrong": self.wrong,
            "rows/s": round(self.rows / self.lasted, 1),
            "p50 ms": self.quantile(0.5),
            "p95 ms": self.quantile(0.95),
            "p99 ms": self.quantile(0.99),
        }


SendRequest = Callable[[Connection, Load], Awaitable[None]]
"""Sends one request over a connection and records the reply in a load."""


def checked_requests(
    texts: Sequence[str], expected: Mapping[str, list[Any]], rows: int
) -> SendRequest:
    """Requests of random texts to random adapters whose answers are checked.

    Args:
        texts: The texts.
        expected: The answers of each adapter to each of the texts.
        rows: Rows of a request.
    """
    rng = random.Random(1)
    names = list(expected)
    kinds = {
        name: "question_answering" if "best" in answers[0] else ""
        for name, answers in expected.items()
    }

    async def send(connection: Connection, load: Load) -> None:
        drawn = [(rng.choice(names), rng.randrange(len(texts))) for _ in range(rows)]
        body = [
            {"adapter_id": name, "inputs": task_input(kinds[name], texts[index], texts[0])}
            for name, index in drawn
        ]
        reply = await connection.post("/predict", {"requests": body})
        right = reply.status != 200 or all(
            same_answer(without_adapter(answer), expected[name][index])
            for answer, (name, index) in zip(reply.content, drawn, strict=True)
        )
        load.record(reply, rows, right)

    return send


async def closed_loop(
    url: str, clients: int, seconds: float, send: SendRequest, load: Load | None = None
) -> Load:
    """Runs a number of clients, each with exactly one request under way at any time."""
    load = load or Load()
    end = time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(url)
        while time.perf_counter() < end:
            await send(connection, load)
        connection.close()

    load.began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    load.lasted = time.perf_counter() - load.began
    return load


async def open_loop(
    url: str,
    rate: float,
    seconds: float,
    send: SendRequest,
    load: Load | None = None,
    seed: int = 2,
) -> Load:
    """Sends requests at random times (Poisson), whether or not earlier ones were answered.

    Args:
        url: The server's URL.
        rate: Mean number of requests a second.
        seconds: How long requests are sent.
        send: Sends one request.
        load: Where replies are recorded; a new load if omitted.
        seed: Seed of the times.
    """
    load = load or Load()
    rng = random.Random(seed)
    idle: list[Connection] = []
    under_way: set[asyncio.Task[None]] = set()

    async def send_one() -> None:
        connection = idle.pop() if idle else Connection(url)
        await send(connection, load)
        idle.append(connection)

    load.began = due = time.perf_counter()
    while due < load.began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(send_one())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        due += rng.expovariate(rate)
    await asyncio.gather(*under_way)
    load.lasted = time.perf_counter() - load.began
    for connection in idle:
        connection.close()
    return load
