"""Honest clients while a server is attacked from all sides: no wrong answer, no lost version.

`pytest -m slow --scale 60 tests/serving/test_under_attack.py` attacks for an hour.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import save_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.bench.clients import Load
from adapterkit.bench.connection import Connection, run_load
from adapterkit.bench.population import Population, same_answer, without_adapter
from adapterkit.bench.server_process import memory_of, server_process
from adapterkit.client.tar import tar_of
from adapterkit.serving.api_keys import hash_key
from adapterkit.text_table import table
from helpers.adapters import MakeAdapter
from helpers.attacks import Scene, under_attack
from helpers.task_adapters import random_task_adapter

N_ADAPTERS = 300
N_CLIENTS = 64
N_TENANTS = 10
"""Tenants of a `mixed_store`: t0 to t9."""

SECONDS = 60.0
QUIET_SECONDS = 120.0
"""Most seconds of the quiet phase."""

PAUSE = 2.0
"""Mean seconds between two requests of a client. Two cores answer the 64 clients in about a quarter
of their time, so that there is time left to attack."""

GROWTH = 100 * 2**20
"""Most bytes by which memory may grow between the first and the last third of the attack."""


class HonestClients:
    """Clients of all tenants, whose answers are compared with those computed offline.

    Args:
        population: Makes the store.
        adapters: The adapters that they ask.
    """

    def __init__(self, population: Population, adapters: list[Adapter]) -> None:
        self._expected = population.expected_answers(adapters)
        self._requests: dict[str, list[tuple[str, int, bytes]]] = defaultdict(list)
        for adapter in adapters:
            for index, text in enumerate(population.texts):
                row = {"adapter_id": adapter.name, "inputs": population.input_of(adapter, text)}
                body = json.dumps({"requests": [row]}).encode()
                self._requests[adapter.name.partition("/")[0]].append((adapter.name, index, body))

    async def load(self, url: str, seconds: float) -> Load:
        """Asks for some seconds."""
        load = Load()
        clients = (self._client(url, number, seconds, load) for number in range(N_CLIENTS))
        await asyncio.gather(*clients)
        load.lasted = time.perf_counter() - load.began
        return load

    async def _client(self, url: str, number: int, seconds: float, load: Load) -> None:
        tenant, rng = f"t{number % N_TENANTS}", random.Random(number)
        connection = Connection(url, f"ak-{tenant}")
        await asyncio.sleep(PAUSE * rng.random())
        while time.perf_counter() < load.began + seconds:
            name, index, body = rng.choice(self._requests[tenant])
            reply = await connection.send("POST", "/predict", body)
            right = reply.status != 200 or same_answer(
                without_adapter(reply.content[0]), self._expected[name][index]
            )
            load.record(reply, 1, right)
            await asyncio.sleep(2 * PAUSE * rng.random())
        connection.close()


def write_keys(path: Path) -> Path:
    tenants = [f"t{number}" for number in range(N_TENANTS)] + ["loud"]
    keys: dict[str, Any] = {
        name: {"key": hash_key(f"ak-{name}"), "adapters": [f"{name}/*"]} for name in tenants
    }
    keys["ops"] = {"key": hash_key("ak-ops"), "adapters": ["*"], "role": "admin"}
    path.write_text(json.dumps(keys))
    return path


async def memory_samples(process: subprocess.Popen[str], seconds: float) -> list[int]:
    """Resident bytes of the server, ten times in a minute."""
    samples, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        await asyncio.sleep(min(6.0, seconds / 10))
        samples.append(memory_of(process))
    return samples


def lost_versions(store: Store, log: Path) -> tuple[Counter[str], list[str]]:
    """What was published and deleted, and the versions that should be there and are not sound."""
    counts, expected = Counter[str](), defaultdict[str, set[int]](set)
    for line in log.read_text().splitlines():
        sign, name, number, *_ = line.split()
        counts[sign] += 1
        if sign == "+":
            expected[name].add(int(number))
        elif sign == "-":
            expected[name].discard(int(number))
    lost = []
    for name, numbers in expected.items():
        there, aliases = store.versions(name)
        lost += [f"{name}@{number}" for number in numbers - set(there)]
        lost += [f"{name}@{n}: damaged" for n in there if store.verify(f"{name}@{n}")]
        lost += [] if aliases["latest"] in there else [f"{name}@latest"]
    return counts, lost


def row(phase: str, load: Load) -> list[Any]:
    values = load.summary()
    return [phase, *(values[key] for key in ROW)]


ROW = ("requests", "not answered", "wrong", "p50 ms", "p95 ms", "p99 ms")


@pytest.mark.slow
def test_honest_clients_of_a_server_under_attack(
    minilm: Backbone,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    scale: float,
    report: Callable[[str], None],
) -> None:
    population = Population(minilm, tmp_path)
    store, adapters = population.mixed_store(N_ADAPTERS)
    honest = HonestClients(population, adapters)
    for name, kind in (("loud/long", "question_answering"), ("loud/choice", "multiple_choice")):
        adapter = random_task_adapter(minilm, kind, tmp_path)
        store.publish(replace(adapter, name=name), minilm.geometry)
    store.publish(make_adapter(minilm, name="loud/many"), minilm.geometry)
    archive = tmp_path / "adapter.tar"
    archive.write_bytes(
        tar_of(save_adapter(make_adapter(minilm), tmp_path / "one", minilm.geometry))
    )
    keys, seconds, log = write_keys(tmp_path / "keys.json"), SECONDS * scale, tmp_path / "log"
    log.touch()

    async def attacked(url: str, process: subprocess.Popen[str]) -> tuple[Load, list[int]]:
        await asyncio.sleep(5)  # the attacks begin
        return await asyncio.gather(honest.load(url, seconds), memory_samples(process, seconds))

    with server_process(store.root, "--keys", str(keys)) as (url, process):
        run_load(honest.load(url, 10))
        quiet = run_load(honest.load(url, min(max(20.0, seconds / 5), QUIET_SECONDS)))
        with under_attack(Scene(url, store.root, "minilm", keys, archive, log)):
            load, memory = run_load(attacked(url, process))
    counts, lost = lost_versions(Store(store.root), log)
    report(summary(quiet, load, memory, counts))
    assert load.wrong == quiet.wrong == 0
    assert set(load.statuses) | set(quiet.statuses) == {200}
    assert lost == []
    assert counts["!"] == 0
    assert min(counts["+"], counts["-"], counts["k"]) > 0
    third = len(memory) // 3
    assert max(memory[-third:]) - max(memory[:third]) < GROWTH


def p99_of_tenths(load: Load) -> list[float]:
    """The p99 of each tenth of the answers, in milliseconds: it must not grow with time."""
    n = len(load.seconds)
    parts = (load.seconds[n * tenth // 10 : n * (tenth + 1) // 10] for tenth in range(10))
    return [Load(seconds=part).quantile(0.99) for part in parts]


def summary(quiet: Load, load: Load, memory: list[int], counts: Mapping[str, int]) -> str:
    lines = [
        table(["phase", *ROW], [row("quiet", quiet), row("attacked", load)]),
        f"p99 under attack / quiet: {load.quantile(0.99) / quiet.quantile(0.99):.2f}",
        f"p99 ms by tenths of the attack: {' '.join(map(str, p99_of_tenths(load)))}",
        f"published {counts['+']}, deleted {counts['-']}, kills of a server {counts['k']}",
        f"MB of the server: {' '.join(str(n // 2**20) for n in memory)}",
    ]
    return "\n".join(lines)
