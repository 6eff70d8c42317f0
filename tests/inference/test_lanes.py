"""Lanes change when something is computed, never what; the rest of the process stays as it was."""

from __future__ import annotations

import multiprocessing
import os
import threading

import pytest
import torch

from adapterkit.backbone.model import Backbone
from adapterkit.inference.lanes import LEAST_TOKENS, SERIAL, WorkerLanes, lanes_of, server_lanes
from adapterkit.inference.pipeline import answer_rows, compute_outputs, encode_requests
from helpers.adapters import MakeAdapter


@pytest.fixture(scope="module")
def two() -> WorkerLanes:
    return WorkerLanes(2, 1)


def test_each_lane_has_its_threads_and_nobody_else_loses_theirs(two: WorkerLanes) -> None:
    def threads(_: int) -> tuple[str, int]:
        barrier.wait(10)
        return threading.current_thread().name, torch.get_num_threads()

    before, barrier = torch.get_num_threads(), threading.Barrier(2)
    found = list(two.map(threads, [0, 1]))
    assert {name for name, _ in found} == {"lane_0", "lane_1"}
    assert {n for _, n in found} == {1}
    assert torch.get_num_threads() == before
    later: list[int] = []
    fresh = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert later == [before]


def test_answers_are_the_same_in_any_lanes(
    tiny: Backbone, make_adapter: MakeAdapter, two: WorkerLanes
) -> None:
    adapters = [make_adapter(tiny, m, name=m) for m in ("lora", "prefix", "bottleneck")]
    texts = [f"i lost my card {'very ' * (n % 30)}" for n in range(60)]
    owners = [[*adapters, None][n % 4] for n in range(60)]
    rows = list(zip(owners, encode_requests(tiny, owners, texts), strict=True))
    alone, beside = compute_outputs(tiny, rows), compute_outputs(tiny, rows, lanes=two)
    for one, other in zip(alone, beside, strict=True):
        for lines, same in zip(one, other, strict=True):
            torch.testing.assert_close(lines, same, atol=1e-5, rtol=1e-5)
    answers = answer_rows(tiny, rows, lanes=two)
    assert [answer["adapter"] for answer in answers] == [o.name if o else "base" for o in owners]


def test_work_is_shared_evenly_and_little_work_is_not_cut(two: WorkerLanes) -> None:
    assert two.budget([10] * 10, 8192) == LEAST_TOKENS
    assert two.budget([14] * 64, 8192) == 14 * 32 + 14
    assert two.budget([14] * 64, 100) == 100
    assert SERIAL.budget([14] * 64, 8192) == 8192
    assert lanes_of(torch.device("meta")) is SERIAL


def test_a_fault_in_a_lane_is_the_callers(two: WorkerLanes) -> None:
    def fail(part: int) -> int:
        raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 0"):
        list(two.map(fail, [0, 1, 2]))
    assert list(two.map(abs, [-1, -2])) == [1, 2]


@pytest.mark.parametrize("n", [1, 2])
def test_submitted_work_never_runs_in_the_calling_thread(n: int) -> None:
    lanes, before = WorkerLanes(n, 1), torch.get_num_threads()
    found = lanes.submit(lambda: (threading.current_thread().name, torch.get_num_threads()))
    name, threads = found.result()
    assert name.startswith("lane_")
    assert threads == 1
    assert torch.get_num_threads() == before
    lanes.close()
    with pytest.raises(RuntimeError):
        lanes.submit(int)


def test_the_lanes_of_a_server_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(10)), raising=False)
    cpu, other = torch.device("cpu"), torch.device("meta")
    for device, requested, n, threads in (
        (cpu, None, 4, 2),
        (cpu, 3, 3, 3),
        (cpu, 16, 16, 1),
        (other, None, 1, 10),
        (other, 4, 1, 10),
    ):
        lanes = server_lanes(device, requested)
        assert (lanes.n, lanes.threads) == (n, threads)
        lanes.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_computes(
    tiny: Backbone, make_adapter: MakeAdapter, two: WorkerLanes
) -> None:
    """Threads of lanes and of OpenMP do not exist in a forked process; nothing waits for them."""
    adapter = make_adapter(tiny)
    owners, texts = [adapter] * 8, ["the bank", "my card"] * 4
    rows = list(zip(owners, encode_requests(tiny, owners, texts), strict=True))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = answer_rows(tiny, rows, 64, lanes=two)
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(target=lambda: answers.put(answer_rows(tiny, rows, 64, lanes=two)))
        child.start()
        child.join(60)
        is_alive = child.is_alive()
        child.kill()
        assert not is_alive
        assert child.exitcode == 0
        found = answers.get()
    finally:
        torch.set_num_threads(before)
    for answer, other in zip(found, expected, strict=True):
        assert answer["label"] == other["label"]
        assert answer["score"] == pytest.approx(other["score"], abs=1e-5)
    assert two.n == 2
