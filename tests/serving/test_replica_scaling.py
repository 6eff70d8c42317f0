"""How many replicas a load needs, and what `--replicas` means."""

from __future__ import annotations

import math
import sys
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from adapterkit.errors import AdapterkitError
from adapterkit.serving.engine.fair_pool import FairPool
from adapterkit.serving.replicas.ray_server import check_cluster
from adapterkit.serving.replicas.replica_scaling import TOKENS, TokenScaling, wanted_replicas
from adapterkit.serving.replicas.replicas import Replicas, read_range
from adapterkit.serving.server import Settings
from helpers.command_line import assert_refused
from helpers.requests import queued_request


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ([], 3),  # nothing is known: no change
        ([0, 0, 0], 0),
        ([1000, 0], 1),  # a new replica is idle
        ([1000, 1100], 3),
        ([3000], 3),
    ],
)
def test_the_number_follows_the_tokens_of_all_replicas(tokens: list[float], wanted: int) -> None:
    assert math.ceil(wanted_replicas(tokens, 3, 1000)) == wanted


def test_the_policy_reads_what_replicas_report() -> None:
    scaling = TokenScaling(100)
    context = SimpleNamespace(
        aggregated_metrics={TOKENS: {"a": 150, "b": 50}}, target_num_replicas=1
    )
    assert scaling(context) == (2, {})
    context = SimpleNamespace(aggregated_metrics=None, target_num_replicas=4)
    assert scaling(context) == (4, {})


def test_the_target_is_two_batches_a_lane() -> None:
    settings = Settings("store")
    assert Replicas(cpus=2).target(settings, on_cpu=True) == 2 * 2 * 512
    assert Replicas(cpus=16).target(settings, on_cpu=True) == 2 * 4 * 512
    assert Replicas(cpus=16).target(settings, on_cpu=False) == 2 * 16384
    settings = Settings("store", lanes=3, batch_tokens=100)
    assert Replicas().target(settings, on_cpu=True) == 600
    assert Replicas(tokens=7).target(settings, on_cpu=True) == 7


def test_tokens_in_work_are_known() -> None:
    done: Future[Any] = Future()
    pool = FairPool[int, int](lambda parts: parts, lambda *_: done, 1, 100, 1000)
    pool.queue.add(queued_request("a", 3, 5))
    pool._fill_threads()
    assert (pool.queue.tokens, pool.tokens_in_work) == (0, 8)


@pytest.mark.parametrize(("text", "numbers"), [("1", (1, 1)), ("4", (4, 4)), ("2..8", (2, 8))])
def test_a_number_or_a_range_is_read(text: str, numbers: tuple[int, int]) -> None:
    assert read_range(text) == numbers


@pytest.mark.parametrize("text", ["", "0", "0..2", "8..2", "2..", "2-8", "two", "-1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(AdapterkitError, match="expected a number such as 4, or a range"):
        read_range(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--replicas", "2"], "--replicas 2: give --engine ray as well"),
        (["--engine", "ray", "--max-connections", "9"], "limit them in a proxy before it"),
        (["--engine", "ray", "--device-map", "auto"], "a replica has one GPU"),
        (["--engine", "ray", "--replicas", "8..2"], "a range such as 2..8"),
        (["--engine", "ray", "--replica-tokens", "9"], "give --replicas 2..4"),
        (["--engine", "ray", "--host", "0.0.0.0"], "there are no keys"),
        (["--engine", "ray", "--keys", "missing.yaml"], "missing.yaml: cannot be read"),
        (["--engine", "ray", "--cors-origin", "*"], "every page on the web"),
        (["--engine", "ray"], "--engine ray needs Ray"),
    ],
)
def test_what_replicas_cannot_do_is_one_line(
    options: list[str], words: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "store").mkdir()
    assert_refused("serve", tmp_path / "store", "--port", "0", *options, words=words)


def test_keys_of_the_environment_are_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERKIT_KEYS", "{}")
    words = "give --keys FILE in place of ADAPTERKIT_KEYS"
    assert_refused("serve", tmp_path, "--engine", "ray", words=words)


def test_a_cluster_that_is_too_small_may_grow(caplog: pytest.LogCaptureFixture) -> None:
    no_service = SimpleNamespace(status=lambda: SimpleNamespace(proxies={}))
    cluster: Any = SimpleNamespace(cpus=3, gpus=0, may_grow=True, serve=no_service)
    check_cluster(cluster, Replicas(least=2, most=8, cpus=2), on_gpu=False)
    assert caplog.messages == [
        "--replicas 2 with --replica-cpus 2: 4 CPUs are needed, the cluster has 3 now; waiting "
        "until it grows"
    ]
    cluster.may_grow = False
    with pytest.raises(AdapterkitError, match="4 CPUs are needed, this machine has 3; give fewer"):
        check_cluster(cluster, Replicas(least=2, most=8, cpus=2), on_gpu=False)
