"""Honest clients while a server is attacked from all sides: no wrong answer, no lost version.

`pytest -m slow --scale 60 tests/serving/test_under_attack.py` attacks for an hour.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.folder import save_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.bench.clients import Load
from adapterkit.bench.connection import run_load
from adapterkit.bench.population import Population
from adapterkit.bench.server_process import memory_of, server_process
from adapterkit.client.tar import tar_of
from adapterkit.text_table import table
from helpers.adapters import MakeAdapter
from helpers.attacks import Scene, under_attack
from helpers.honest_clients import HonestClients, write_keys
from helpers.task_adapters import random_task_adapter

N_ADAPTERS = 300
SECONDS = 60.0
QUIET_SECONDS = 120.0
"""Most seconds of the quiet phase."""

PAUSE = 2.0
"""Mean seconds between two requests of a client. Two cores answer the 64 clients in about a quarter
of their time, so that there is time left to attack."""

GROWTH = 100 * 2**20
"""Most bytes by which memory may grow between the first and the last third of the attack."""


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
    honest = HonestClients(population, adapters, PAUSE)
    for name, kind in (("loud/long", "question_answering"), ("loud/choice", "multiple_choice")):
        adapter = random_task_adapter(minilm, kind, tmp_path)
        store.publish(replace(adapter, name=name), minilm.geometry)
    store.publish(make_adapter(minilm, name="loud/many"), minilm.geometry)
    archive = tmp_path / "adapter.tar"
    archive.write_bytes(
        tar_of(save_adapter(make_adapter(minilm), tmp_path / "one", minilm.geometry))
    )
    keys = write_keys(tmp_path / "keys.json", loud={"adapters": ["loud/*"]})
    seconds, log = SECONDS * scale, tmp_path / "log"
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
