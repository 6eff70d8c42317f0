"""A server under load, end to end: is every answer right, is memory flat, is everyone served?

Each scenario starts `adapterkit serve` as a process of its own over a store of random adapters and
asks it over HTTP; expected answers are computed offline by the same adapters.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from ..adapter.checksums import with_checksums
from ..adapter.folder import adapter_files
from ..backbone.model import Backbone
from ..client.tar import as_tar
from ..errors import AdapterkitError
from ..inference.predictor import Predictor
from .clients import Ask, Load, checked, closed, steady
from .machine import machine
from .served import memory_of, scrape, server
from .stock import N_TEXTS, Stock, bare, near
from .wire import TimedReply, Wire, run

CLIENTS = 64

SATURATING = 128
"""Rows under way at least where throughput is measured: two lanes hold 72 short ones, and what does
not wait cannot be in the next batch."""

TAR = "application/x-tar"

QUIET = 2.0
"""Requests a second of the quiet tenant; the loud one sends fifty times as many."""

ROUNDS = 5
"""How often each rate is measured, in turn with the others."""

REQUEST_ROWS = (1, 4, 16)
"""Rows of a request whose rates are measured."""

SCENARIOS = ("exact", "evict", "rate", "swap", "flood", "overload", "drain")


@dataclass(frozen=True)
class TenantsBench:
    """Scenarios of one server and many tenants.

    Attributes:
        scenarios: Some of `SCENARIOS`.
        adapters: Adapters of the store.
        registered: Adapters of the store that does not fit into memory.
        resident: How many of them do.
        seconds: Of each load.

    Raises:
        AdapterkitError: A scenario is not known.
    """

    scenarios: tuple[str, ...] = SCENARIOS
    adapters: int = 300
    registered: int = 10_000
    resident: int = 200
    seconds: float = 60.0

    def __post_init__(self) -> None:
        unknown = set(self.scenarios) - set(SCENARIOS)
        if unknown or not self.scenarios:
            raise AdapterkitError(
                f"scenarios: '{', '.join(sorted(unknown))}'; valid are {', '.join(SCENARIOS)}"
            )

    def run(self) -> dict[str, Any]:
        """What was seen: `rows`, a line for each figure."""
        backbone = Backbone.load("minilm", device="cpu")
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            for name in self.scenarios:
                scene = Scene(self, Stock(backbone, Path(folder)))
                for what, value in run(getattr(scene, name)()).items():
                    rows.append({"scenario": name, "what": what, "value": value})
                    tqdm.write(f"{name}: {what}: {value}", file=sys.stderr)
        return {
            "bench": "tenants",
            "settings": asdict(self),
            "machine": machine(),
            "rows": rows,
        }


class Scene:
    """What is asked of a server over a stock of adapters.

    Args:
        bench: The settings.
        stock: The adapters.
    """

    def __init__(self, bench: TenantsBench, stock: Stock) -> None:
        self.bench = bench
        self.stock = stock
        self.texts = stock.texts

    async def exact(self) -> dict[str, Any]:
        """Every answer of many adapters, methods and tasks is the offline one."""
        store, adapters = self.stock.store(self.bench.adapters)
        wanted = self.stock.wanted(adapters)
        with server(store.root) as (url, process):
            await closed(url, CLIENTS, self.bench.seconds, self._asks(wanted, 1))
            before = memory_of(process)
            load = await closed(url, CLIENTS, self.bench.seconds, self._asks(wanted, 1))
            after = memory_of(process)
        return {
            "adapters": len(adapters),
            **load.summary(),
            "MB after warm-up": before // 10**6,
            "MB at the end": after // 10**6,
        }

    async def evict(self) -> dict[str, Any]:
        """Ten thousand registered, room for two hundred, traffic by Zipf's law."""
        store, sizes = self.stock.many(self.bench.registered)
        budget = sizes * self.bench.resident
        rng = random.Random(0)
        weights = [1 / (place + 1) for place in range(self.bench.registered)]
        drawn = rng.choices(range(self.bench.registered), weights, k=20_000)
        kept: dict[tuple[int, int], list[Any]] = {}
        load = Load()
        turn = iter(range(10**9))

        async def ask(wire: Wire, load: Load) -> None:
            number = drawn[next(turn) % len(drawn)]
            text = rng.randrange(N_TEXTS)
            asked = [{"adapter_id": f"t{number}/task", "inputs": self.texts[text]}]
            reply = await wire.post("/predict", {"requests": asked})
            load.note(reply, 1)
            if reply.status == 200:
                kept.setdefault((number, text), []).append(reply.content[0])

        with server(store.root, "--memory", f"{budget}B") as (url, process):
            begun = memory_of(process)
            await closed(url, CLIENTS, self.bench.seconds, ask, load)
            seen = await scrape(url)
            grown = memory_of(process) - begun
        sample = rng.sample(sorted(kept), min(1000, len(kept)))
        wrong = self.stock.wrong(store, {key: kept[key] for key in sample})
        return {
            "registered": self.bench.registered,
            **load.summary(),
            "wrong": f"{wrong} of {sum(len(kept[key]) for key in sample)} checked",
            "adapters asked": len({number for number, _ in kept}),
            "loads": int(seen["adapterkit_loads_total"]),
            "evictions": int(seen['adapterkit_evictions_total{tier="memory"}']),
            "resident bytes / budget": round(
                seen['adapterkit_resident_bytes{tier="memory"}'] / budget, 3
            ),
            "budget MB": round(budget / 10**6, 1),
            "process grew by MB": round(grown / 10**6, 1),
        }

    async def rate(self) -> dict[str, Any]:
        """Rows a second over HTTP against the engine's own, and one adapter against all."""
        store, adapters = self.stock.alike(self.bench.adapters)
        wanted = self.stock.wanted(adapters)
        some = {"one": adapters[:1], "all": adapters}
        predictor = Predictor(self.stock.backbone, adapters, max_tokens=1024)
        rates: dict[tuple[str, int], list[float]] = {}
        with server(store.root) as (url, _):
            await closed(url, CLIENTS, self.bench.seconds / 4, self._asks(wanted, 16))
            # Turn by turn, so that a drift of the machine's speed is in all of them.
            for _ in range(ROUNDS):
                alone = self.stock.rate(predictor, adapters, self.bench.seconds / 20)
                rates.setdefault(("offline", 0), []).append(alone)
                for name, rows in [(name, rows) for name in some for rows in REQUEST_ROWS]:
                    mine = self._asks({a.name: wanted[a.name] for a in some[name]}, rows)
                    clients = max(CLIENTS, SATURATING // rows)
                    load = await closed(url, clients, self.bench.seconds / 20, mine)
                    rates.setdefault((name, rows), []).append(load.summary()["rows/s"])
        offline = median(rates["offline", 0])
        found: dict[str, Any] = {"rows/s offline": offline}
        for rows in REQUEST_ROWS:
            one, every = rates["one", rows], rates["all", rows]
            found[f"rows/s, {rows} a request"] = median(every)
            found[f"HTTP / offline, {rows} a request"] = _beside(every, rates["offline", 0])
            found[f"all / one adapter, {rows} a request"] = _beside(every, one)
        return found

    async def swap(self) -> dict[str, Any]:
        """Published, aliased, rolled back, unloaded and deleted while ten clients ask."""
        store, adapters = self.stock.store(20)
        wanted = self.stock.wanted(adapters)
        shown = adapters[0]
        first = replace(shown, head={k: -v for k, v in shown.head.items()})
        versions = {1: wanted[shown.name], 2: self.stock.wanted([first])[shown.name]}
        numbered: dict[int, int] = {1: 1}
        changed, others, alone = Load(), Load(), Load()
        changes = Counter[str]()
        quiet = {name: answers for name, answers in wanted.items() if name != shown.name}
        archive = {1: as_tar(with_checksums(adapter_files(shown, self.stock.backbone.geometry)))}
        archive[2] = as_tar(with_checksums(adapter_files(first, self.stock.backbone.geometry)))
        changing = asyncio.Event()

        async def ask(wire: Wire, changed: Load) -> None:
            reply = await wire.post(
                "/predict", {"requests": [{"adapter_id": shown.name, "inputs": self.texts[0]}]}
            )
            right = reply.status == 200 and near(
                bare(reply.content[0]), versions[numbered[reply.content[0]["version"]]][0]
            )
            changed.note(reply, 1, right)
            if not right:
                changed.wrong += reply.status != 200

        async def change(wire: Wire) -> None:
            for latest in count(2):
                await changing.wait()
                content = numbered[latest] = 1 + (latest + 1) % 2
                replies = await change_round(wire, shown.name, latest, archive[content])
                # A name of its own is deleted and published anew, with other content each time.
                path = "/admin/adapters/again/again"
                replies.append(await wire.send("PUT", path, archive[content], TAR))
                asked = [{"adapter_id": "again/again", "inputs": self.texts[0]}]
                said = await wire.post("/predict", {"requests": asked})
                right = said.status == 200 and near(bare(said.content[0]), versions[content][0])
                changed.note(said, 1, right)
                replies.append(await wire.send("DELETE", path))
                changes.update(str(reply.status) for reply in replies)
                await asyncio.sleep(1.0)

        with server(store.root) as (url, _):
            ask_others = self._asks(quiet, 1)
            await closed(url, 10, 3.0, ask_others)
            wire = Wire(url)
            admin = asyncio.create_task(change(wire))
            turn = self.bench.seconds / 2 / ROUNDS
            for _ in range(ROUNDS):
                # The one who asks the changed adapter asks it while nothing changes, too: equal
                # load.
                for going, load, own in ((False, alone, Load()), (True, others, changed)):
                    changing.set() if going else changing.clear()
                    await asyncio.gather(
                        closed(url, 10, turn, ask_others, load), closed(url, 1, turn, ask, own)
                    )
            admin.cancel()
            with suppress(asyncio.CancelledError):  # but what it failed of is told
                await admin
            wire.close()
        return {
            "changes by status": dict(changes),
            "answers of the changed": sum(changed.statuses.values()),
            "wrong, stale or failed": changed.wrong,
            "answers of the others": sum(others.statuses.values()),
            "others wrong or failed": others.wrong
            + sum(others.statuses.values())
            - others.statuses[200],
            "others' p99 ms alone": alone.quantile(0.99),
            "others' p99 ms meanwhile": others.quantile(0.99),
            "p99 meanwhile / alone": round(others.quantile(0.99) / alone.quantile(0.99), 2),
        }

    async def flood(self) -> dict[str, Any]:
        """A quiet tenant beside one that sends fifty times as much."""
        store, adapters = self.stock.store(24)
        wanted = self.stock.wanted(adapters)
        loud = {name: answers for name, answers in wanted.items() if name.startswith("t1/")}
        calm = {name: answers for name, answers in wanted.items() if name.startswith("t2/")}
        found: dict[str, Any] = {}
        alone, beside, flood = Load(), Load(), Load()
        with server(store.root) as (url, _):
            await closed(url, 4, 3.0, self._asks(wanted, 1))
            # In turns, so that a machine that slows down slows both alike.
            turn = self.bench.seconds / ROUNDS
            for seed in range(ROUNDS):
                await steady(url, QUIET, turn, self._asks(calm, 1), alone, seed)
                flooding = asyncio.create_task(
                    steady(url, 50 * QUIET, turn + 2, self._asks(loud, 1), flood, ROUNDS + seed)
                )
                await asyncio.sleep(1.0)
                await steady(url, QUIET, turn, self._asks(calm, 1), beside, seed)
                await flooding
        found["quiet tenant's requests alone, beside the flood"] = (
            f"{len(alone.seconds)}, {len(beside.seconds)}"
        )
        found["quiet tenant's p95 ms alone"] = alone.quantile(0.95)
        found["quiet tenant's p95 ms beside the flood"] = beside.quantile(0.95)
        found["beside / alone"] = round(beside.quantile(0.95) / alone.quantile(0.95), 2)
        found["quiet tenant's errors"] = sum(beside.statuses.values()) - beside.statuses[200]
        found["flood: answered, refused"] = f"{flood.statuses[200]}, {flood.statuses[429]}"
        found["flood's p95 ms"] = flood.quantile(0.95)
        return found

    async def overload(self) -> dict[str, Any]:
        """Ten times what the server can do: refusals, no growth, and normal a second later."""
        store, adapters = self.stock.store(24)
        wanted = self.stock.wanted(adapters)
        with server(store.root, "--queue-tokens", "4000") as (url, process):
            await closed(url, 8, 3.0, self._asks(wanted, 1))
            normal = await closed(url, 8, 5.0, self._asks(wanted, 1))
            capacity = (await closed(url, 32, 5.0, self._asks(wanted, 8))).summary()
            before = memory_of(process)
            load = Load()
            rate = 10 * capacity["rows/s"] / 64
            plain = [name for name in wanted if "best" not in wanted[name][0]] * 8
            body = [{"adapter_id": name, "inputs": self.texts[0]} for name in plain[:64]]

            async def ask(wire: Wire, load: Load) -> None:
                load.note(await wire.post("/predict", {"requests": body}), len(body))

            await steady(url, rate, 15.0, ask, load)
            peak = memory_of(process)
            await asyncio.sleep(1.0)
            again = await closed(url, 8, 5.0, self._asks(wanted, 1))
        return {
            "capacity rows/s": capacity["rows/s"],
            "offered rows/s": round(64 * rate),
            "answered": load.statuses[200],
            "refused with 429": load.statuses[429],
            "anything else": sum(load.statuses.values()) - load.statuses[200] - load.statuses[429],
            "MB before": before // 10**6,
            "MB after": peak // 10**6,
            "p50 ms before": normal.quantile(0.5),
            "p50 ms a second after": again.quantile(0.5),
            "errors a second after": sum(again.statuses.values()) - again.statuses[200],
        }

    async def drain(self) -> dict[str, Any]:
        """SIGTERM: what is under way is answered, then exit code 0."""
        store, adapters = self.stock.store(24)
        wanted = self.stock.wanted(adapters)
        with server(store.root) as (url, process):
            await closed(url, 4, 2.0, self._asks(wanted, 1))
            wires = [Wire(url) for _ in range(16)]
            plain = [name for name in wanted if "best" not in wanted[name][0]]
            asked = [{"adapter_id": name, "inputs": self.texts[0]} for name in plain * 4]
            under_way = [
                asyncio.create_task(wire.post("/predict", {"requests": asked})) for wire in wires
            ]
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            replies = await asyncio.gather(*under_way)
            await asyncio.to_thread(process.wait, 60)
        for wire in wires:
            wire.close()
        statuses = Counter(reply.status for reply in replies)
        return {
            "requests under way": len(replies),
            "statuses": dict(statuses),
            "exit code": process.returncode,
        }

    def _asks(self, wanted: Mapping[str, list[Any]], rows: int) -> Ask:
        return checked(self.texts, wanted, rows)


async def change_round(wire: Wire, name: str, version: int, archive: bytes) -> list[TimedReply]:
    """Publishes a version, points an alias at it, goes back and forth, unloads, deletes an old one.

    Args:
        wire: A connection of an admin.
        name: The adapter, which a version goes before.
        version: The number that the version will have.
        archive: The adapter folder.
    """
    path = f"/admin/adapters/{name}"
    body = json.dumps({"version": version}).encode()
    replies = [
        await wire.send("PUT", path, archive, TAR),
        await wire.send("PUT", f"/admin/aliases/stable/{name}", body),
        await wire.send("POST", f"/admin/rollback/{name}"),
        await wire.send("PUT", f"/admin/aliases/latest/{name}", body),
        await wire.send("POST", f"/admin/unload/{name}"),
    ]
    if version > 2:
        replies.append(await wire.send("DELETE", f"{path}?version={version - 2}"))
    return replies


def _beside(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median ratio of rates that were measured in turn."""
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 3)
