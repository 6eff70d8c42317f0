"""The order of replicas for a tenant: stable, even, and within the bound of the load."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from adapterkit.serving.keys.api_keys import Keys, hash_key
from adapterkit.serving.keys.key_file import parse_keys
from adapterkit.serving.keys.request_tenant import tenant_of
from adapterkit.serving.replicas import tenant_router
from adapterkit.serving.replicas.tenant_router import BOUND, FEW, TenantRouter

REPLICAS = [f"replica{number}" for number in range(8)]
TENANTS = [f"tenant{number}" for number in range(2000)]


def firsts(replicas: list[str]) -> dict[str, str]:
    """The first replica of each tenant."""
    router = TenantRouter()
    return {tenant: router.order(tenant, replicas)[0] for tenant in TENANTS}


def test_the_order_of_a_tenant_does_not_depend_on_the_router() -> None:
    one, other = TenantRouter(), TenantRouter()
    for tenant in TENANTS[:50]:
        order = one.order(tenant, REPLICAS)
        assert sorted(order) == REPLICAS
        assert order == other.order(tenant, reversed(REPLICAS))


def test_tenants_are_divided_evenly() -> None:
    counts = Counter(firsts(REPLICAS).values())
    assert set(counts) == set(REPLICAS)
    assert max(counts.values()) < 1.25 * len(TENANTS) / len(REPLICAS)


def test_only_the_tenants_of_a_lost_replica_move() -> None:
    before, after = firsts(REPLICAS), firsts(REPLICAS[1:])
    moved = {tenant for tenant in TENANTS if before[tenant] != after[tenant]}
    assert moved == {tenant for tenant in TENANTS if before[tenant] == REPLICAS[0]}
    assert len({after[tenant] for tenant in moved}) == len(REPLICAS) - 1


def test_the_best_replica_is_passed_over_while_it_has_too_much() -> None:
    router = TenantRouter()
    loads = dict.fromkeys(REPLICAS, 16)
    first, second, *_ = router.rank("acme", loads)
    loads[first] = 21  # the mean is 16.6, and 1.25 times it and one more are 21.8
    assert router.rank("acme", loads)[0] == first
    loads[first] = 22
    assert router.rank("acme", loads)[0] == second
    assert router.rank("acme", loads)[-1] == first


def test_a_tenant_with_many_requests_uses_several_replicas() -> None:
    router, loads = TenantRouter(), dict.fromkeys(REPLICAS, 0)
    for under_way in range(1, 200):
        loads[router.rank("hot", loads)[0]] += 1
        assert max(loads.values()) <= max(FEW + 1, BOUND * under_way / len(loads) + 2)
    assert (
        sum(load > 0 for load in loads.values()) == 7
    )  # the eighth has no share of 1.25 times the mean


def test_a_few_requests_at_a_time_stay_on_one_replica() -> None:
    router, loads = TenantRouter(), dict.fromkeys(REPLICAS[:2], 0)
    first = router.rank("acme", loads)[0]
    for _ in range(FEW + 1):
        assert router.rank("acme", loads)[0] == first
        loads[first] += 1
    assert router.rank("acme", loads)[0] != first


def test_a_request_of_an_unknown_tenant_goes_to_the_less_loaded_of_two() -> None:
    router = TenantRouter(random.Random(0))
    loads = {name: number for number, name in enumerate(REPLICAS)}
    counts = Counter(router.rank(None, loads)[0] for _ in range(2000))
    assert counts[REPLICAS[-1]] == 0
    assert counts[REPLICAS[0]] > counts[REPLICAS[3]] > counts[REPLICAS[-2]] > 0
    assert sorted(router.rank(None, loads)) == REPLICAS


def test_any_number_of_tenants_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_router, "MAX_TENANTS", 10)
    router = TenantRouter()
    orders = [router.order(tenant, REPLICAS) for tenant in TENANTS[:50]]
    assert orders == [TenantRouter().order(tenant, REPLICAS) for tenant in TENANTS[:50]]
    assert len(router._orders) <= 10


KEYS = Keys(parse_keys(json.dumps({"acme": {"key": hash_key("ak-acme")}}), "keys"))


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        ({b"authorization": b"Bearer ak-acme"}, "acme"),
        ({b"authorization": b"bearer  ak-acme"}, "acme"),
        ({b"authorization": b"Bearer ak-other"}, None),
        ({b"authorization": b"Basic ak-acme"}, None),
        ({b"authorization": b"Bearer \xff"}, None),
        ({}, None),
        ({b"x-adapter-id": b"globex/topic@2"}, "globex"),
        ({b"authorization": b"Bearer ak-acme", b"x-adapter-id": b"globex/topic"}, "globex"),
    ],
)
def test_the_tenant_of_a_request_is_in_its_headers(
    headers: dict[bytes, bytes], tenant: str | None
) -> None:
    assert tenant_of(headers.items(), KEYS) == tenant


def test_without_keys_only_the_header_names_a_tenant() -> None:
    headers = {b"authorization": b"Bearer ak-acme"}
    assert tenant_of(headers.items(), None) is None
    assert tenant_of([(b"x-adapter-id", b"acme/intent")], None) == "acme"
