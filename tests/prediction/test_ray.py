"""Jobs on Ray: every row is answered once, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.cluster.ray_cluster import RayCluster
from adapterkit.prediction.job import in_this_process, run_job
from adapterkit.prediction.ray_engine import RayEngine
from adapterkit.prediction.shard_worker import Job
from adapterkit.text_table import table
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_one_line, run_command
from helpers.tolerance import assert_close

METHODS = ("lora", "prefix", "bottleneck", "lora")
N_ADAPTERS = 8
N_ROWS = 20_000

WORKER = b"ray::MapWorker"
"""How the name of a process of Ray Data's actors begins."""


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = pytest.importorskip("ray", reason="the extra adapterkit[ray] is not installed")
    yield module
    module.shutdown()


def write_rows(folder: Path, n_rows: int, n_files: int) -> None:
    folder.mkdir()
    for number in range(n_files):
        with (folder / f"{number}.jsonl").open("w", encoding="utf-8") as file:
            for row in range(number, n_rows, n_files):
                text = f"rain and sun and card {row} 雨" + " snow" * (row % 9)
                name = f"t/{row % N_ADAPTERS}"
                file.write(json.dumps({"id": row, "text": text, "adapter": name}) + "\n")


def answers(folder: str) -> dict[int, Any]:
    """Answers by row, each of which must be there once."""
    found: dict[int, Any] = {}
    for path in sorted(Path(folder).glob("part-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert row["id"] not in found
            found[row["id"]] = row
    return found


def workers() -> list[int]:
    """The processes of Ray's workers that hold a backbone."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(WORKER):
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def kill_a_worker(folder: Path) -> None:
    """Kills one worker when three parts are done."""
    while len(list(folder.glob("_records/*.json"))) < 3:
        time.sleep(0.05)
    os.kill(workers()[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_every_row_is_answered_once_although_a_worker_is_killed(
    ray: Any,
    tiny: Backbone,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    scale: float,
    report: Callable[[str], None],
) -> None:
    """`pytest -m slow --scale 10 tests/prediction/test_ray.py` answers 200,000 rows."""
    store, n_rows, seconds = Store("store"), int(N_ROWS * scale), {}
    for number in range(N_ADAPTERS):
        method = METHODS[number % len(METHODS)]
        adapter = make_adapter(tiny, method, name=f"t/{number}", seed=number)
        store.publish(adapter, tiny.geometry)
    write_rows(Path("in"), n_rows, 3)

    def timed(name: str, **options: Any) -> None:
        began = time.perf_counter()
        run_job(Job(name, str(store.root), backbone=str(tiny_folder)), "in", **options)
        seconds[name] = time.perf_counter() - began

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    timed("plain", engine=in_this_process)
    timed("one", engine=RayEngine(RayCluster(1)))
    timed("two", engine=RayEngine(RayCluster(2)))
    killer = Thread(target=kill_a_worker, args=(Path("killed"),))
    killer.start()
    timed("killed", engine=RayEngine(RayCluster(2)))
    killer.join()
    expected = answers("plain")
    assert sorted(expected) == list(range(n_rows))
    for name in ("one", "two", "killed"):
        found = answers(name)
        assert found.keys() == expected.keys()
        for row, answer in found.items():
            assert_close(answer, expected[row])
    rows = [[name, f"{taken:.1f}", f"{n_rows / taken:.0f}"] for name, taken in seconds.items()]
    report(table(["workers", "seconds", "rows/s"], rows))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_answers_and_tells_what_a_worker_cannot_do(
    ray: Any, tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    store = Store("store")
    store.publish(make_adapter(tiny, name="t/0"), tiny.geometry)
    write_rows(Path("in"), 8, 1)
    arguments = ("--store", "store", "--backbone", str(tiny_folder), "--engine", "ray")
    result = run_command("predict", *arguments, "--input", "in", "--output", "out")
    assert result.code == 1
    assert "1 answers in 1 parts in out" in result.err
    assert "7 of 8 rows have no answer; the first: " in result.err
    assert set(answers("out")) == set(range(8))
    missing = ("--engine", "ray", "--input", "in", "--output", "none", "--backbone", "missing")
    result = run_command("predict", "t/0", "--store", str(store.root), *missing)
    assert_one_line(result, "backbone 'missing'")
    Path("in/0.jsonl").write_text('{"text": "sun"}\n')
    result = run_command("predict", "t/0", *arguments, "--input", "in", "--output", "out")
    assert result.code == 2
    assert "has the answers of another job" in result.err
