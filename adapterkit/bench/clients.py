"""Clients of a server under load, each answer compared with the one that is right."""

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

from .stock import bare, near, row_of
from .wire import TimedReply, Wire


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: Of each answered request.
        statuses: How often each status came.
        wrong: Answers that are not the offline ones.
        rows: Rows answered.
        began: When the load began.
        lasted: Seconds it lasted.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    rows: int = 0
    began: float = field(default_factory=time.perf_counter)
    lasted: float = 0.0

    def note(self, reply: TimedReply, rows: int, right: bool = True) -> None:
        """Counts one answer."""
        self.statuses[reply.status] += 1
        if reply.status == 200:
            self.seconds.append(reply.seconds)
            self.rows += rows
            self.wrong += not right

    def quantile(self, share: float) -> float:
        """Milliseconds under which a share of the answers came."""
        if len(self.seconds) < 2:
            return math.nan
        return round(1000 * quantiles(self.seconds, n=1000)[round(share * 1000) - 1], 1)

    def summary(self) -> dict[str, Any]:
        """Requests, errors, wrong answers, rows a second and waiting times."""
        return {
            "requests": sum(self.statuses.values()),
            "not answered": sum(self.statuses.values()) - self.statuses[200],
            "wrong": self.wrong,
            "rows/s": round(self.rows / self.lasted, 1),
            "p50 ms": self.quantile(0.5),
            "p95 ms": self.quantile(0.95),
            "p99 ms": self.quantile(0.99),
        }


Ask = Callable[[Wire, Load], Awaitable[None]]
"""One request over a connection, noted in a load."""


def checked(texts: Sequence[str], wanted: Mapping[str, list[Any]], rows: int) -> Ask:
    """Asks random adapters random texts and compares with what is wanted."""
    rng = random.Random(1)
    names = list(wanted)
    kinds = {name: "question_answering" if "best" in w[0] else "" for name, w in wanted.items()}

    async def ask(wire: Wire, load: Load) -> None:
        drawn = [(rng.choice(names), rng.randrange(len(texts))) for _ in range(rows)]
        body = [{"adapter_id": n, "inputs": row_of(kinds[n], texts[t], texts[0])} for n, t in drawn]
        reply = await wire.post("/predict", {"requests": body})
        right = reply.status != 200 or all(
            near(bare(got), wanted[name][text])
            for got, (name, text) in zip(reply.content, drawn, strict=True)
        )
        load.note(reply, rows, right)

    return ask


async def closed(
    url: str, clients: int, seconds: float, ask: Ask, load: Load | None = None
) -> Load:
    """So many clients, each with one request under way at any time."""
    loads = load or Load()
    end = time.perf_counter() + seconds

    async def client() -> None:
        wire = Wire(url)
        while time.perf_counter() < end:
            await ask(wire, loads)
        wire.close()

    loads.began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    loads.lasted = time.perf_counter() - loads.began
    return loads


async def steady(
    url: str,
    rate: float,
    seconds: float,
    ask: Ask,
    load: Load | None = None,
    seed: int = 2,
) -> Load:
    """So many requests a second, sent whether or not the ones before were answered."""
    loads = load or Load()
    rng = random.Random(seed)
    free: list[Wire] = []
    under_way: set[asyncio.Task[None]] = set()

    async def one() -> None:
        wire = free.pop() if free else Wire(url)
        await ask(wire, loads)
        free.append(wire)

    loads.began = due = time.perf_counter()
    while due < loads.began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        due += rng.expovariate(rate)
    await asyncio.gather(*under_way)
    loads.lasted = time.perf_counter() - loads.began
    for wire in free:
        wire.close()
    return loads
