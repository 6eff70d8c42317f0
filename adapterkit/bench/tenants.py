"""A server under load, end to end: is every answer right, is memory flat, is everyone served?

Each scenario starts `adapterkit serve` as a process of its own over a store of random adapters and
asks it over HTTP; expected answers are computed offline by the same adapters.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from tqdm import tqdm

from ..adapter import Adapter
from ..archive import as_tar
from ..backbone import Backbone
from ..errors import AdapterkitError
from ..files import adapter_files, load_adapter, sealed
from ..predict import Predictor
from ..store import Store
from ..task import Text, tasks
from .machine import machine
from .served import memory_of, scrape, server
from .wire import Reply, Wire
from .workload import labelled_rows, random_adapter

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {"r": 4}),
    ("prefix", {"num_virtual_tokens": 4}),
    ("bottleneck", {"size": 4}),
)
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("classification", {"pooling": "mean"}),
    ("tagging", {"labels": ("O", "B-A", "I-A", "B-B")}),
    ("regression", {"pooling": "mean"}),
    ("question_answering", {}),
)
N_TEXTS = 12
CLIENTS = 64
TAR = "application/x-tar"

QUIET = 2.0
"""Requests a second of the quiet tenant; the loud one sends fifty times as many."""

ROUNDS = 5
"""How often each rate is measured, in turn with the others."""

REQUEST_ROWS = (1, 4, 16)
"""Rows of a request whose rates are measured."""

CLOSE = 2e-3
"""What numbers may differ by: a batch of other rows rounds otherwise."""

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
                scene = Scene(self, backbone, Path(folder))
                for what, value in asyncio.run(getattr(scene, name)()).items():
                    rows.append({"scenario": name, "what": what, "value": value})
                    tqdm.write(f"{name}: {what}: {value}", file=sys.stderr)
        return {
            "bench": "tenants",
            "settings": asdict(self),
            "machine": machine(),
            "rows": rows,
        }


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

    def note(self, reply: Reply, rows: int, right: bool = True) -> None:
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


class Scene:
    """A store and what is asked of it.

    Args:
        bench: The settings.
        backbone: Of the expected answers.
        work: A folder for stores.
    """

    def __init__(self, bench: TenantsBench, backbone: Backbone, work: Path) -> None:
        self.bench = bench
        self.backbone = backbone
        self.work = work
        texts, _ = labelled_rows(backbone.tokenizer, N_TEXTS)
        self.texts = texts

    async def exact(self) -> dict[str, Any]:
        """Every answer of many adapters, methods and tasks is the offline one."""
        store, adapters = self._store(self.bench.adapters)
        wanted = self._wanted(adapters)
        with server(store.root) as (url, process):
            await self._closed(url, CLIENTS, self.bench.seconds, self._checked(wanted, 1))
            before = memory_of(process)
            load = await self._closed(url, CLIENTS, self.bench.seconds, self._checked(wanted, 1))
            after = memory_of(process)
        return {
            "adapters": len(adapters),
            **load.summary(),
            "MB after warm-up": before // 10**6,
            "MB at the end": after // 10**6,
        }

    async def evict(self) -> dict[str, Any]:
        """Ten thousand registered, room for two hundred, traffic by Zipf's law."""
        store, sizes = self._many(self.bench.registered)
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
            await self._closed(url, CLIENTS, self.bench.seconds, ask, load)
            seen = await scrape(url)
            grown = memory_of(process) - begun
        sample = rng.sample(sorted(kept), min(1000, len(kept)))
        wrong = self._wrong(store, {key: kept[key] for key in sample})
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
        store = Store(self.work / "rate")
        adapters = [self._plain(number) for number in range(self.bench.adapters)]
        for adapter in tqdm(adapters, "publish", unit="adapter", leave=False):
            store.publish(adapter, self.backbone.geometry)
        wanted = self._wanted(adapters)
        some = {"one": adapters[:1], "all": adapters}
        predictor = Predictor(self.backbone, adapters, max_tokens=1024)
        rates: dict[tuple[str, int], list[float]] = {}
        with server(store.root) as (url, _):
            await self._closed(url, CLIENTS, self.bench.seconds / 4, self._checked(wanted, 16))
            # Turn by turn, so that a drift of the machine's speed is in all of them.
            for _ in range(ROUNDS):
                alone = self._offline(predictor, adapters, self.bench.seconds / 20)
                rates.setdefault(("offline", 0), []).append(alone)
                for name, rows in [(name, rows) for name in some for rows in REQUEST_ROWS]:
                    mine = self._checked({a.name: wanted[a.name] for a in some[name]}, rows)
                    load = await self._closed(url, CLIENTS, self.bench.seconds / 20, mine)
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
        store, adapters = self._store(20)
        wanted = self._wanted(adapters)
        shown = adapters[0]
        first = replace(shown, head={k: -v for k, v in shown.head.items()})
        versions = {1: wanted[shown.name], 2: self._wanted([first])[shown.name]}
        numbered: dict[int, int] = {1: 1}
        changed, others = Load(), Load()
        changes = Counter[str]()
        quiet = {name: answers for name, answers in wanted.items() if name != shown.name}
        archive = {1: as_tar(sealed(adapter_files(shown, self.backbone.geometry)))}
        archive[2] = as_tar(sealed(adapter_files(first, self.backbone.geometry)))
        going = True

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

        async def change(url: str) -> None:
            wire, latest = Wire(url), 1
            while going:
                latest += 1
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
            wire.close()

        with server(store.root) as (url, _):
            checked = self._checked(quiet, 1)
            await self._closed(url, 10, 3.0, checked)
            # The one who asks the changed adapter asks it before it changes, too: equal load.
            alone, _ = await asyncio.gather(
                self._closed(url, 10, self.bench.seconds / 2, checked),
                self._closed(url, 1, self.bench.seconds / 2, ask, Load()),
            )
            admin = asyncio.create_task(change(url))
            asking = asyncio.create_task(self._closed(url, 1, self.bench.seconds / 2, ask, changed))
            await self._closed(url, 10, self.bench.seconds / 2, checked, others)
            await asking
            going = False
            await admin
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
        store, adapters = self._store(24)
        wanted = self._wanted(adapters)
        loud = {name: answers for name, answers in wanted.items() if name.startswith("t1/")}
        calm = {name: answers for name, answers in wanted.items() if name.startswith("t2/")}
        found: dict[str, Any] = {}
        with server(store.root) as (url, _):
            await self._closed(url, 4, 3.0, self._checked(wanted, 1))
            alone = await self._open(url, QUIET, self.bench.seconds, calm)
            flooding = asyncio.create_task(
                self._open(url, 50 * QUIET, self.bench.seconds + 2, loud)
            )
            await asyncio.sleep(1.0)
            beside = await self._open(url, QUIET, self.bench.seconds, calm)
            flood = await flooding
        found["quiet tenant's p95 ms alone"] = alone.quantile(0.95)
        found["quiet tenant's p95 ms beside the flood"] = beside.quantile(0.95)
        found["beside / alone"] = round(beside.quantile(0.95) / alone.quantile(0.95), 2)
        found["quiet tenant's errors"] = sum(beside.statuses.values()) - beside.statuses[200]
        found["flood: answered, refused"] = f"{flood.statuses[200]}, {flood.statuses[429]}"
        found["flood's p95 ms"] = flood.quantile(0.95)
        return found

    async def overload(self) -> dict[str, Any]:
        """Ten times what the server can do: refusals, no growth, and normal a second later."""
        store, adapters = self._store(24)
        wanted = self._wanted(adapters)
        with server(store.root, "--queue-tokens", "4000") as (url, process):
            await self._closed(url, 8, 3.0, self._checked(wanted, 1))
            normal = await self._closed(url, 8, 5.0, self._checked(wanted, 1))
            capacity = (await self._closed(url, 32, 5.0, self._checked(wanted, 8))).summary()
            before = memory_of(process)
            load = Load()
            rate = 10 * capacity["rows/s"] / 64
            plain = [name for name in wanted if "best" not in wanted[name][0]] * 8
            body = [{"adapter_id": name, "inputs": self.texts[0]} for name in plain[:64]]
            await self._open(url, rate, 15.0, wanted, load, {"requests": body})
            peak = memory_of(process)
            await asyncio.sleep(1.0)
            again = await self._closed(url, 8, 5.0, self._checked(wanted, 1))
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
        store, adapters = self._store(24)
        wanted = self._wanted(adapters)
        with server(store.root) as (url, process):
            await self._closed(url, 4, 2.0, self._checked(wanted, 1))
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
        statuses = Counter(reply.status for reply in replies)
        return {
            "requests under way": len(replies),
            "statuses": dict(statuses),
            "exit code": process.returncode,
        }

    def _store(self, n: int) -> tuple[Store, list[Adapter]]:
        """A store of n adapters of three methods and four tasks, of ten tenants."""
        store = Store(self.work / f"store{n}")
        adapters = [self._adapter(number) for number in range(n)]
        if not store.root.exists():
            for adapter in tqdm(adapters, "publish", unit="adapter", leave=False):
                store.publish(adapter, self.backbone.geometry)
        return store, adapters

    def _plain(self, number: int) -> Adapter:
        """A classifier like all others but for its numbers: what is compared is how many."""
        plain = random_adapter(self.backbone, "lora", {"r": 4}, number, 4)
        return replace(plain, name=f"t{number % 10}/p{number}")

    def _adapter(self, number: int) -> Adapter:
        method, settings = METHODS[number % len(METHODS)]
        kind, task_settings = KINDS[number // len(METHODS) % len(KINDS)]
        plain = random_adapter(self.backbone, method, settings, number, 2 + number % 9)
        made: Any = tasks()[kind]
        labels = {"labels": tuple(f"label {i}" for i in range(2 + number % 9))}
        task = made(**task_settings, **(labels if kind == "classification" else {}))
        generator = torch.Generator().manual_seed(number)
        head = {
            name: torch.randn(shape, generator=generator) * 0.2
            for name, shape in task.head_shapes(self.backbone.geometry.hidden).items()
        }
        return replace(plain, name=f"t{number % 10}/a{number}", task=task, head=head)

    def _many(self, n: int) -> tuple[Store, int]:
        """A store of n small adapters, each different, and the bytes of one in memory."""
        store = Store(self.work / f"many{n}")
        for number in tqdm(range(n), "publish", unit="adapter", leave=False):
            adapter = self._small(number)
            store.publish(adapter, self.backbone.geometry)
        from ..serving.resident import OVERHEAD

        return store, self._small(0).n_bytes + OVERHEAD

    def _small(self, number: int) -> Adapter:
        plain = random_adapter(self.backbone, "lora", {"r": 2, "layers": (4, 5)}, number, 4)
        generator = torch.Generator().manual_seed(number)
        head = {k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in plain.head.items()}
        return replace(plain, name=f"t{number}/task", head=head)

    def _wanted(self, adapters: Sequence[Adapter]) -> dict[str, list[Any]]:
        """Each adapter's answer to each text, computed offline."""
        predictor = Predictor(self.backbone, adapters)
        asked = [(a.name, self._row(a, text)) for a in adapters for text in self.texts]
        said = [bare(json.loads(json.dumps(one))) for one in predictor(asked)]
        step = len(self.texts)
        return {a.name: said[i * step : (i + 1) * step] for i, a in enumerate(adapters)}

    def _row(self, adapter: Adapter, text: str) -> Text:
        return row_of(adapter.task.type, text, self.texts[0])

    def _checked(self, wanted: Mapping[str, list[Any]], rows: int) -> Ask:
        """Asks random adapters random texts and compares with what is wanted."""
        rng = random.Random(1)
        names = list(wanted)
        kinds = {name: "question_answering" if "best" in w[0] else "" for name, w in wanted.items()}

        async def ask(wire: Wire, load: Load) -> None:
            drawn = [(rng.choice(names), rng.randrange(N_TEXTS)) for _ in range(rows)]
            body = [
                {"adapter_id": n, "inputs": row_of(kinds[n], self.texts[t], self.texts[0])}
                for n, t in drawn
            ]
            reply = await wire.post("/predict", {"requests": body})
            right = reply.status != 200 or all(
                near(bare(got), wanted[name][text])
                for got, (name, text) in zip(reply.content, drawn, strict=True)
            )
            load.note(reply, rows, right)

        return ask

    async def _closed(
        self, url: str, clients: int, seconds: float, ask: Ask, load: Load | None = None
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

    async def _open(
        self,
        url: str,
        rate: float,
        seconds: float,
        wanted: Mapping[str, list[Any]],
        load: Load | None = None,
        body: Any = None,
    ) -> Load:
        """So many requests a second, sent whether or not the ones before were answered."""
        loads = load or Load()
        rng = random.Random(2)
        ask = self._checked(wanted, 1)
        free: list[Wire] = []
        under_way: set[asyncio.Task[None]] = set()

        async def one() -> None:
            wire = free.pop() if free else Wire(url)
            if body is None:
                await ask(wire, loads)
            else:
                loads.note(await wire.post("/predict", body), len(body["requests"]))
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

    def _offline(self, predictor: Predictor, adapters: Sequence[Adapter], seconds: float) -> float:
        """Rows a second of the same rows without a server, in lists of 64."""
        rng = random.Random(1)
        rates, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            drawn = [(rng.choice(adapters), rng.choice(self.texts)) for _ in range(64)]
            began = time.perf_counter()
            predictor([(a.name, self._row(a, text)) for a, text in drawn])
            rates.append(64 / (time.perf_counter() - began))
        return round(median(rates), 1)

    def _wrong(self, store: Store, kept: Mapping[tuple[int, int], list[Any]]) -> int:
        wrong = 0
        for (number, text), answers in kept.items():
            adapter = load_adapter(store.path(f"t{number}/task"), self.backbone)
            adapter = replace(adapter, name=f"t{number}/task")
            (goal,) = Predictor(self.backbone, [adapter])([(adapter.name, self.texts[text])])
            wrong += sum(not near(bare(answer), bare(goal)) for answer in answers)
        return wrong


async def change_round(wire: Wire, name: str, version: int, archive: bytes) -> list[Reply]:
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


def row_of(kind: str, text: str, context: str) -> Text:
    """A text as a kind of task reads it."""
    return {"question": text, "context": context} if kind == "question_answering" else text


def bare(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without what names its adapter."""
    return {k: v for k, v in answer.items() if k not in ("adapter", "adapter_id", "version")}


def near(got: Any, goal: Any) -> bool:
    """Whether two answers are equal, numbers but for rounding."""
    if isinstance(goal, dict):
        return bool(got.keys() == goal.keys()) and all(near(got[k], goal[k]) for k in goal)
    if isinstance(goal, list):
        return len(got) == len(goal) and all(map(near, got, goal))
    if isinstance(goal, float):
        return bool(abs(got - goal) <= CLOSE * max(1.0, abs(goal)))
    return bool(got == goal)
