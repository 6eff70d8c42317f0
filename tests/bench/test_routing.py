"""The simulation of routing: memories, orders and bounds do what they say."""

from __future__ import annotations

import numpy as np
import pytest

from adapterkit.bench.routing import Hashed, Memory, RoutingBench, TwoChoices
from adapterkit.errors import AdapterkitError
from helpers.command_line import run_command

SMALL = RoutingBench(2000, tenants=200, replicas=4, resident=20, requests=4000)


def test_the_least_recently_used_adapter_leaves_a_memory() -> None:
    memory = Memory(2)
    assert [memory.use(one) for one in (1, 2, 1, 3, 1, 2, 3)] == [
        False,
        False,
        True,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("bound", [1.1, 1.25, float("inf")])
def test_a_hash_sends_an_adapter_to_one_server_within_the_bound(bound: float) -> None:
    router = Hashed(SMALL, np.random.default_rng(0), None, bound)
    asked = SMALL._asked(np.random.default_rng(1)).tolist()
    servers: dict[int, set[int]] = {}
    for number, adapter in enumerate(asked):
        servers.setdefault(adapter, set()).add(router.choose(adapter))
        assert max(router.load) < bound * (min(number, router.n_recent) + 1) / SMALL.replicas + 1
    n_of_most_wanted = len(servers[0])
    assert n_of_most_wanted == 1 if bound == float("inf") else n_of_most_wanted > 1


def test_two_choices_balance_better_than_one() -> None:
    router = TwoChoices(SMALL, np.random.default_rng(0))
    for adapter in range(400):
        router.choose(adapter)
    assert max(router.load) - min(router.load) < 20


def test_rules_are_compared_on_the_same_requests() -> None:
    rows = {row["rule"]: row for row in SMALL.run()["rows"]}
    assert rows["hash of the adapter"]["hit_rate"] > 1.3 * rows["random"]["hit_rate"]
    bounded = rows["hash of the adapter, bounded load"]
    assert bounded["busiest"] < rows["hash of the adapter"]["busiest"]
    assert bounded["hit_rate"] > 0.9 * rows["hash of the adapter"]["hit_rate"]
    with pytest.raises(AdapterkitError, match=r"^resident must be at least 1, got 0$"):
        RoutingBench(resident=0)


def test_the_command_prints_a_table() -> None:
    result = run_command("bench", "routing", "--adapters", "100", "--requests", "200")
    assert "hash of the tenant, bounded load" in result.out
