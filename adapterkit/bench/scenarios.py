"""The scenarios of `bench tenants`: are answers right, is memory flat, is every tenant served?

Each scenario starts `adapterkit serve` as a process of its own over a store of random adapters and
sends requests over HTTP; the expected answers are computed offline by the same adapters.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from statistics import median
from typing import Any

from ..inference.predictor import Predictor
from .changing_adapter import ChangingAdapter
from .clients import Load, SendRequest, checked_requests, closed_loop, open_loop
from .connection import Connection
from .population import N_TEXTS, Population
from .server_process import memory_of, scrape, server_process

CLIENTS = 64

SATURATING_ROWS = 128
"""Least number of rows under way where throughput is measured: two lanes hold 72 short rows, and
a row that does not wait cannot join the next batch."""

QUIET_RATE = 2.0
"""Requests a second of the quiet tenant; the loud one sends fifty times as many."""

ROUNDS = 5
"""How often each rate is measured, in turn with the others."""

REQUEST_ROWS = (1, 4, 16)
"""Rows of a request for which rates are measured."""

OVERLOAD_ROWS = 64
"""Rows of a request that overloads the server."""

WARM_UP = 3.0
"""Most seconds of a load before one that is measured."""

SCENARIOS = ("exact", "evict", "rate", "swap", "flood", "overload", "drain")


class Scenarios:
    """Loads on servers over stores of random adapters; every method is one scenario.

    Args:
        population: Makes the stores.
        adapters: Number of adapters in a store.
        registered: Number of adapters in the store that does not fit into memory.
        resident: Number of them that fit.
        seconds: Duration of each load.
    """

    def __init__(
        self,
        population: Population,
        *,
        adapters: int,
        registered: int,
        resident: int,
        seconds: float,
    ) -> None:
        self._population = population
        self._texts = population.texts
        self._n_adapters, self._n_registered, self._n_resident = adapters, registered, resident
        self._seconds = seconds
        self._warm_up = min(WARM_UP, seconds)

    async def exact(self) -> dict[str, Any]:
        """Every answer of many adapters, methods and tasks equals the offline one."""
        store, adapters = self._population.mixed_store(self._n_adapters)
        send = self._checked(self._population.expected_answers(adapters), 1)
        with server_process(store.root) as (url, process):
            await closed_loop(url, CLIENTS, self._seconds, send)
            before = memory_of(process)
            load = await closed_loop(url, CLIENTS, self._seconds, send)
            after = memory_of(process)
        return {
            "adapters": len(adapters),
            **load.summary(),
            "MB after warm-up": before // 10**6,
            "MB at the end": after // 10**6,
        }

    async def evict(self) -> dict[str, Any]:
        """Many adapters registered, room for few, and requests by Zipf's law."""
        n = self._n_registered
        store, adapter_bytes = self._population.large_store(n)
        budget = adapter_bytes * self._n_resident
        rng = random.Random(0)
        numbers = rng.choices(range(n), [1 / (rank + 1) for rank in range(n)], k=20_000)
        received: dict[tuple[int, int], list[Any]] = {}
        load = Load()
        turns = count()

        async def send(connection: Connection, load: Load) -> None:
            number = numbers[next(turns) % len(numbers)]
            index = rng.randrange(N_TEXTS)
            reply = await connection.post("/predict", self._request(f"t{number}/task", index))
            load.record(reply, 1)
            if reply.status == 200:
                received.setdefault((number, index), []).append(reply.content[0])

        with server_process(store.root, "--memory", f"{budget}B") as (url, process):
            before = memory_of(process)
            await closed_loop(url, CLIENTS, self._seconds, send, load)
            metrics = await scrape(url)
            grown = memory_of(process) - before
        sample = rng.sample(sorted(received), min(1000, len(received)))
        wrong = self._population.count_wrong(store, {key: received[key] for key in sample})
        resident_bytes = metrics['adapterkit_resident_bytes{tier="memory"}']
        return {
            "registered": n,
            **load.summary(),
            "wrong": f"{wrong} of {sum(len(received[key]) for key in sample)} checked",
            "adapters asked": len({number for number, _ in received}),
            "loads": int(metrics["adapterkit_loads_total"]),
            "evictions": int(metrics['adapterkit_evictions_total{tier="memory"}']),
            "resident bytes / budget": round(resident_bytes / budget, 3),
            "budget MB": round(budget / 10**6, 1),
            "process grew by MB": round(grown / 10**6, 1),
        }

    async def rate(self) -> dict[str, Any]:
        """Rows a second over HTTP against those offline, and one adapter against all."""
        store, adapters = self._population.uniform_store(self._n_adapters)
        expected = self._population.expected_answers(adapters)
        subsets = {"one": adapters[:1], "all": adapters}
        predictor = Predictor(self._population.backbone, adapters, max_tokens=1024)
        rates: dict[tuple[str, int], list[float]] = {}
        with server_process(store.root) as (url, _):
            await closed_loop(url, CLIENTS, self._seconds / 4, self._checked(expected, 16))
            # In turns: a drift of the machine's speed changes all rates alike.
            for _ in range(ROUNDS):
                offline = self._population.offline_rate(predictor, adapters, self._seconds / 20)
                rates.setdefault(("offline", 0), []).append(offline)
                for name, rows in [(name, rows) for name in subsets for rows in REQUEST_ROWS]:
                    send = self._checked({a.name: expected[a.name] for a in subsets[name]}, rows)
                    clients = max(CLIENTS, SATURATING_ROWS // rows)
                    load = await closed_loop(url, clients, self._seconds / 20, send)
                    rates.setdefault((name, rows), []).append(load.summary()["rows/s"])
        found: dict[str, Any] = {"rows/s offline": median(rates["offline", 0])}
        for rows in REQUEST_ROWS:
            one, every = rates["one", rows], rates["all", rows]
            found[f"rows/s, {rows} a request"] = median(every)
            found[f"HTTP / offline, {rows} a request"] = _median_ratio(every, rates["offline", 0])
            found[f"all / one adapter, {rows} a request"] = _median_ratio(every, one)
        return found

    async def swap(self) -> dict[str, Any]:
        """An adapter is published, aliased, rolled back and unloaded while clients ask it."""
        store, adapters = self._population.mixed_store(20)
        expected = self._population.expected_answers(adapters)
        turn = self._seconds / 2 / ROUNDS
        changing = ChangingAdapter(self._population, adapters[0], pause=min(1.0, turn))
        send_others = self._checked(
            {name: answers for name, answers in expected.items() if name != adapters[0].name}, 1
        )
        meanwhile, alone = Load(), Load()
        with server_process(store.root) as (url, _):
            await closed_loop(url, 10, self._warm_up, send_others)
            connection = Connection(url)
            admin = asyncio.create_task(changing.keep_changing(connection))
            for _ in range(ROUNDS):
                # The changing adapter is asked while nothing changes, too: the load is equal.
                for on, load, own in ((False, alone, Load()), (True, meanwhile, changing.load)):
                    changing.enabled.set() if on else changing.enabled.clear()
                    await asyncio.gather(
                        closed_loop(url, 10, turn, send_others, load),
                        closed_loop(url, 1, turn, changing.send, own),
                    )
            changing.finish()
            await admin
            connection.close()
        return {
            "changes by status": dict(changing.statuses),
            "answers of the changed": changing.load.n_requests,
            "wrong, stale or failed": changing.load.wrong,
            "answers of the others": meanwhile.n_requests,
            "others wrong or failed": meanwhile.wrong + meanwhile.n_errors,
            "others' p99 ms alone": alone.quantile(0.99),
            "others' p99 ms meanwhile": meanwhile.quantile(0.99),
            "p99 meanwhile / alone": round(meanwhile.quantile(0.99) / alone.quantile(0.99), 2),
        }

    async def flood(self) -> dict[str, Any]:
        """A quiet tenant beside one that sends fifty times as many requests."""
        store, adapters = self._population.mixed_store(24)
        expected = self._population.expected_answers(adapters)
        loud, quiet = (
            {name: answers for name, answers in expected.items() if name.startswith(tenant)}
            for tenant in ("t1/", "t2/")
        )
        alone, beside, flood = Load(), Load(), Load()
        with server_process(store.root) as (url, _):
            await closed_loop(url, 4, self._warm_up, self._checked(expected, 1))
            # In turns: a drift of the machine's speed changes both alike.
            turn = self._seconds / ROUNDS
            for seed in range(ROUNDS):
                send = self._checked(quiet, 1)
                await open_loop(url, QUIET_RATE, turn, send, alone, seed)
                send = self._checked(loud, 1)
                flooding = asyncio.create_task(
                    open_loop(url, 50 * QUIET_RATE, turn + 2, send, flood, ROUNDS + seed)
                )
                await asyncio.sleep(1.0)
                send = self._checked(quiet, 1)  # the same requests as alone
                await open_loop(url, QUIET_RATE, turn, send, beside, seed)
                await flooding
        return {
            "quiet tenant's requests alone, beside the flood": (
                f"{len(alone.seconds)}, {len(beside.seconds)}"
            ),
            "quiet tenant's p95 ms alone": alone.quantile(0.95),
            "quiet tenant's p95 ms beside the flood": beside.quantile(0.95),
            "beside / alone": round(beside.quantile(0.95) / alone.quantile(0.95), 2),
            "quiet tenant's errors": beside.n_errors,
            "flood: answered, refused": f"{flood.statuses[200]}, {flood.statuses[429]}",
            "flood's p95 ms": flood.quantile(0.95),
        }

    async def overload(self) -> dict[str, Any]:
        """Ten times the server's capacity: requests are refused, and a second later all is well."""
        store, adapters = self._population.mixed_store(24)
        expected = self._population.expected_answers(adapters)
        one_row = self._checked(expected, 1)
        names = [name for name in expected if "best" not in expected[name][0]] * 8
        body = [{"adapter_id": n, "inputs": self._texts[0]} for n in names[:OVERLOAD_ROWS]]

        async def send(connection: Connection, load: Load) -> None:
            load.record(await connection.post("/predict", {"requests": body}), len(body))

        load = Load()
        with server_process(store.root, "--queue-tokens", "4000") as (url, process):
            await closed_loop(url, 8, self._warm_up, one_row)
            normal = await closed_loop(url, 8, 5.0, one_row)
            capacity = await closed_loop(url, 32, 5.0, self._checked(expected, 8))
            before = memory_of(process)
            rate = 10 * capacity.summary()["rows/s"] / OVERLOAD_ROWS
            await open_loop(url, rate, 15.0, send, load)
            peak = memory_of(process)
            await asyncio.sleep(1.0)
            afterwards = await closed_loop(url, 8, 5.0, one_row)
        return {
            "capacity rows/s": capacity.summary()["rows/s"],
            "offered rows/s": round(OVERLOAD_ROWS * rate),
            "answered": load.statuses[200],
            "refused with 429": load.statuses[429],
            "anything else": load.n_errors - load.statuses[429],
            "MB before": before // 10**6,
            "MB after": peak // 10**6,
            "p50 ms before": normal.quantile(0.5),
            "p50 ms a second after": afterwards.quantile(0.5),
            "errors a second after": afterwards.n_errors,
        }

    async def drain(self) -> dict[str, Any]:
        """After SIGTERM, requests under way are answered and the exit code is 0."""
        store, adapters = self._population.mixed_store(24)
        expected = self._population.expected_answers(adapters)
        names = [name for name in expected if "best" not in expected[name][0]]
        body = {"requests": [{"adapter_id": n, "inputs": self._texts[0]} for n in names * 4]}
        with server_process(store.root) as (url, process):
            await closed_loop(url, 4, self._warm_up, self._checked(expected, 1))
            connections = [Connection(url) for _ in range(16)]
            under_way = [asyncio.create_task(c.post("/predict", body)) for c in connections]
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            replies = await asyncio.gather(*under_way)
            await asyncio.to_thread(process.wait, 60)
        for connection in connections:
            connection.close()
        return {
            "requests under way": len(replies),
            "statuses": dict(Counter(reply.status for reply in replies)),
            "exit code": process.returncode,
        }

    def _checked(self, expected: Mapping[str, list[Any]], rows: int) -> SendRequest:
        return checked_requests(self._texts, expected, rows)

    def _request(self, name: str, index: int) -> dict[str, Any]:
        return {"requests": [{"adapter_id": name, "inputs": self._texts[index]}]}


def _median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of two rates that were measured in turns."""
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 3)
