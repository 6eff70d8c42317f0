"""Replicas on Ray Serve: right answers, few loads, shared quotas, also while one is killed.

`pytest -m slow --scale 10 tests/serving/test_replicas.py` asks ten times as long.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.bench.clients import Load
from adapterkit.bench.connection import run_load
from adapterkit.bench.population import Population
from adapterkit.bench.server_process import server_process
from adapterkit.serving.engine.adapter_cache import OVERHEAD
from adapterkit.text_table import table
from helpers.adapters import MakeAdapter
from helpers.honest_clients import N_CLIENTS, HonestClients, write_keys
from helpers.replica_service import (
    COORDINATOR,
    metrics_by_replica,
    processes_of,
    replica_service,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own

N_ADAPTERS = 300
SECONDS = 20.0
PAUSE = 0.2
"""Mean seconds between two requests of a client."""

RESIDENT = 0.6
"""Part of all adapters that fit into the memory of a replica."""

PATIENCE = 120.0
"""Seconds after which something that takes a few has not happened."""


@pytest.fixture(scope="module", autouse=True)
def _ray() -> None:
    pytest.importorskip("ray.serve", reason="the extra adapterkit[ray] is not installed")


@pytest.fixture(scope="module")
def population(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Population:
    return Population(tiny, tmp_path_factory.mktemp("population"))


def until(is_done: Callable[[], bool]) -> float:
    """Waits for something; returns the seconds that it took."""
    began = time.perf_counter()
    while not is_done():
        assert time.perf_counter() - began < PATIENCE
        time.sleep(0.2)
    return time.perf_counter() - began


class Crowd(NamedTuple):
    """Clients of all tenants, the store and the key file, and the bytes of a replica's memory, in
    which a part of the adapters has room."""

    honest: HonestClients
    store: Store
    keys: Path
    memory: int


@pytest.fixture
def crowd(population: Population, tmp_path: Path) -> Crowd:
    store, adapters = population.mixed_store(N_ADAPTERS)
    memory = int(RESIDENT * sum(one.n_bytes + OVERHEAD for one in adapters))
    honest = HonestClients(population, adapters, PAUSE)
    return Crowd(honest, store, write_keys(tmp_path / "keys.json"), memory)


def options(backbone: Path, keys: Path, memory: int) -> list[str]:
    settings = {
        "--engine": "ray",
        "--replicas": "2",
        "--backbone": backbone,
        "--device": "cpu",
        "--keys": keys,
        "--memory": f"{memory}B",
    }
    return [str(part) for pair in settings.items() for part in pair]


class Lookups(NamedTuple):
    """How often requested adapters were in the memory of their replica, and how often not."""

    hits: float
    misses: float

    @classmethod
    def of(cls, url: str) -> Lookups:
        """Those of all replicas so far."""
        time.sleep(5)  # the last reports
        metrics = metrics_by_replica(url).values()
        hits = sum(one["adapterkit_cache_hits_total"] for one in metrics)
        return cls(hits, sum(one["adapterkit_cache_misses_total"] for one in metrics))

    def share_since(self, before: Lookups) -> float:
        """The share that was in memory."""
        hits = self.hits - before.hits
        return hits / (hits + self.misses - before.misses)


def test_a_killed_replica_loses_only_what_it_was_answering(
    crowd: Crowd, tiny_folder: Path, scale: float, report: Callable[[str], None]
) -> None:
    honest, store, keys, memory = crowd
    killed_at: list[float] = []
    replaced_at: list[float] = []

    async def killed(url: str, process: subprocess.Popen[str], before: set[str]) -> Load:
        load = asyncio.create_task(honest.load(url, SECONDS * scale))
        await asyncio.sleep(SECONDS * scale / 2)
        victim = (await asyncio.to_thread(processes_of, process))[0]
        killed_at.append(time.perf_counter())
        os.kill(victim, signal.SIGKILL)
        new = partial(until, lambda: not before.issuperset(metrics_by_replica(url)))
        replaced_at.append(await asyncio.to_thread(new))
        return await load

    rows = []
    with server_process(store.root, *options(tiny_folder, keys, memory)) as (url, process):
        until(lambda: len(metrics_by_replica(url)) == 2)
        before = set(metrics_by_replica(url))
        quiet = run_load(honest.load(url, SECONDS * scale))
        rows.append(["quiet", *figures(quiet)])
        load = run_load(killed(url, process, before))
        rows.append(["one killed", *figures(load)])
        assert len(processes_of(process)) == 2
        after = run_load(honest.load(url, SECONDS * scale / 2))
        rows.append(["replaced", *figures(after)])
    assert process.returncode == 0
    report(table(["phase", *FIGURES], rows))
    statuses = sorted(failure.status for failure in honest.failures)
    report(f"failed: {statuses}; a new replica answers after {replaced_at[0]:.1f} s")
    assert (quiet.wrong, load.wrong, after.wrong) == (0, 0, 0)
    assert (quiet.n_errors, after.n_errors) == (0, 0)
    assert len(honest.failures) <= N_CLIENTS
    assert all(failure.sent <= killed_at[0] for failure in honest.failures)


FIGURES = ("requests", "not answered", "wrong", "p50 ms", "p99 ms")


def figures(load: Load) -> list[Any]:
    values = load.summary()
    return [values[name] for name in FIGURES]


def test_requests_of_a_tenant_find_their_adapters_in_memory(
    crowd: Crowd, tiny_folder: Path, scale: float, report: Callable[[str], None]
) -> None:
    honest, store, keys, memory = crowd
    shares, rows = {}, []
    for by_tenant in (True, False):
        service = replica_service(store.root, tiny_folder, keys, memory, by_tenant=by_tenant)
        with service as (url, _):
            cold = run_load(honest.load(url, SECONDS * scale))
            before = Lookups.of(url)
            load = run_load(honest.load(url, SECONDS * scale))
            shares[by_tenant] = Lookups.of(url).share_since(before)
        assert (cold.wrong, cold.n_errors, load.wrong, load.n_errors) == (0, 0, 0, 0)
        rule = "tenant" if by_tenant else "less loaded of two"
        rows.append([rule, f"{shares[by_tenant]:.3f}", *figures(load)])
    report(table(["routing", "resident", *FIGURES], rows))
    assert shares[True] > shares[False]


def test_requests_that_were_accepted_are_answered_at_the_end(
    population: Population, tiny_folder: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    store, adapters = population.mixed_store(30)
    honest = HonestClients(population, adapters, 0.0)
    keys = write_keys(tmp_path / "keys.json")
    ended_at: list[float] = []

    async def ended(url: str, process: subprocess.Popen[str]) -> Load:
        load = asyncio.create_task(honest.load(url, SECONDS / 2))
        await asyncio.sleep(SECONDS / 4)
        ended_at.append(time.perf_counter())
        process.send_signal(signal.SIGTERM)
        return await load

    with server_process(store.root, *options(tiny_folder, keys, 10**9)) as (url, process):
        load = run_load(ended(url, process))
        assert process.wait(PATIENCE) == 0
    assert load.wrong == 0
    assert load.statuses[200] > 0
    assert all(failure.sent > ended_at[0] for failure in honest.failures)
    report(f"ended under load: {dict(load.statuses)}")


def test_a_replica_that_cannot_start_is_one_line(population: Population, tmp_path: Path) -> None:
    store, _ = population.mixed_store(30)
    command = [sys.executable, "-m", "adapterkit", "serve", str(store.root), "--port", "0"]
    command += options(tmp_path / "missing", write_keys(tmp_path / "keys.json"), 10**9)
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 2
    line = result.stderr.splitlines()[0]
    assert line.startswith("Error: --engine ray: backbone '")
    assert line.endswith("missing': there is no such folder")


READERS = [f"reader{number}" for number in range(12)]
"""Tenants of all adapters. Once in two thousand times all of them have the same replica."""

RATE = 2
"""Quota of the tenant `slow`, in rows per second: 20 at once."""


class RunningService(NamedTuple):
    """Two replicas: their URL, store, key file and the process that started them."""

    url: str
    store: Store
    keys: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def service(
    tiny: Backbone,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningService]:
    """Two replicas, some of whose tenants have quotas."""
    folder = tmp_path_factory.mktemp("replicas")
    store = Store(folder / "store")
    store.publish(make_adapter(tiny, name="t0/old"), tiny.geometry)
    tenants: dict[str, Any] = {name: {"adapters": ["*"]} for name in READERS}
    tenants["slow"] = {"adapters": ["*"], "rows_per_second": RATE}
    keys = write_keys(folder / "keys.json", **tenants)
    with replica_service(store.root, tiny_folder, keys, 10**9) as (url, process):
        yield RunningService(url, store, keys, process)


def ask(url: str, tenant: str, adapter: str, header: bool = False) -> httpx2.Response:
    headers = {"authorization": f"Bearer ak-{tenant}"}
    body = {"inputs": "sun and rain"}
    if header:
        headers["x-adapter-id"] = adapter
    else:
        body["adapter_id"] = adapter
    return httpx2.post(f"{url}/predict", json=body, headers=headers, timeout=30)


def requests_by_replica(url: str) -> dict[str, float]:
    time.sleep(5)  # the last reports
    return {name: one["adapterkit_requests_total"] for name, one in metrics_by_replica(url).items()}


def test_replicas_share_the_quota_of_a_tenant(
    service: RunningService,
    tiny: Backbone,
    make_adapter: MakeAdapter,
    report: Callable[[str], None],
) -> None:
    url, store, *_ = service
    names = [f"{name}/same" for name in READERS]
    for name in names:
        store.publish(make_adapter(tiny, name=name), tiny.geometry)
    before, began = requests_by_replica(url), time.perf_counter()
    replies = [ask(url, "slow", names[number % len(names)], header=True) for number in range(150)]
    lasted = time.perf_counter() - began
    answered = [reply for reply in replies if reply.status_code == 200]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert len(answered) + len(refused) == 150
    assert len(answered) <= 10 * RATE + lasted * RATE + 1
    assert len(refused) > 0
    assert all("retry-after" in reply.headers for reply in refused)
    after = requests_by_replica(url)
    shares = [after[name] - before[name] for name in before]
    assert min(shares) > 0
    report(f"quota {RATE}/s: {len(answered)} of 150 answered in {lasted:.1f} s, by {shares}")


def test_requests_without_a_quota_do_not_need_the_coordinator(service: RunningService) -> None:
    (coordinator,) = processes_of(service.process, COORDINATOR)
    os.kill(coordinator, signal.SIGKILL)
    seen: set[int] = set()

    def is_back() -> bool:
        assert ask(service.url, "t0", "t0/old").status_code == 200
        seen.add(ask(service.url, "slow", "t0/old").status_code)
        new = processes_of(service.process, COORDINATOR)
        return len(new) == 1 and new != [coordinator]

    until(is_back)
    until(lambda: ask(service.url, "slow", "t0/old").status_code == 200)
    assert seen <= {200, 503}


def test_every_replica_sees_publications_and_keys(
    service: RunningService, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    url, store, keys, _ = service
    assert {ask(url, name, "t0/new").status_code for name in READERS} == {404}
    store.publish(make_adapter(tiny, name="t0/new", seed=3), tiny.geometry)
    until(lambda: {ask(url, name, "t0/new").status_code for name in READERS} == {200})
    late = [f"late{number}" for number in range(12)]
    assert {ask(url, name, "t0/new").status_code for name in late} == {401}
    write_keys(keys, **{name: {"adapters": ["*"]} for name in [*READERS, *late]})
    until(lambda: {ask(url, name, "t0/new").status_code for name in late} == {200})


def test_the_number_of_replicas_follows_the_load(
    population: Population, tiny_folder: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    store, adapters = population.mixed_store(30)
    honest = HonestClients(population, adapters, 0.0)
    keys = write_keys(tmp_path / "keys.json")
    quick = {"window": 3.0, "period": 1.0, "upscale_delay": 2.0, "downscale_delay": 4.0}
    replicas = {"least": 1, "most": 2, "tokens": 50, **quick}

    async def loaded(url: str, process: subprocess.Popen[str]) -> tuple[Load, float]:
        load = asyncio.create_task(honest.load(url, 3 * SECONDS))
        began = time.perf_counter()
        while len(await asyncio.to_thread(processes_of, process)) < 2:
            assert time.perf_counter() - began < PATIENCE
            await asyncio.sleep(0.5)
        up = time.perf_counter() - began
        return await load, up

    with replica_service(store.root, tiny_folder, keys, 10**9, **replicas) as (url, process):
        assert len(processes_of(process)) == 1
        load, up = run_load(loaded(url, process))
        down = until(lambda: len(processes_of(process)) == 1)
    assert (load.wrong, load.n_errors) == (0, 0)
    report(f"1 to 2 replicas after {up:.1f} s of load, and back {down:.1f} s after its end")
