"""What replicas share: quotas, reports and unloads; the coordinator may be away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.testclient import TestClient

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import OverloadedError, UnavailableError
from adapterkit.inference.lanes import WorkerLanes
from adapterkit.serving.activity_report import merged_activity
from adapterkit.serving.app import make_app
from adapterkit.serving.engine.adapter_cache import AdapterCache
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.keys.api_keys import Tenant
from adapterkit.serving.keys.quotas import Quotas
from adapterkit.serving.metrics.merged_metrics import merged_text, pack_metrics
from adapterkit.serving.metrics.metrics import Metrics
from adapterkit.serving.replicas import coordinator_client, replica_group
from adapterkit.serving.replicas.coordinator import FIRST_SECONDS, LOST_SECONDS, Coordinator
from adapterkit.serving.replicas.coordinator_client import CoordinatorClient
from adapterkit.serving.replicas.replica_group import ReplicaGroup
from adapterkit.serving.replicas.shared_quotas import SharedQuotas
from adapterkit.serving.server_group import ServerReport
from adapterkit.serving.service import Service
from adapterkit.serving.serving_limits import ServingLimits
from helpers.adapters import MakeAdapter

LIMITED = Tenant("acme", rows_per_second=1, tokens_per_second=10)
FREE = Tenant("globex")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class LostError(Exception):
    """The actor is away."""


class Actor:
    """A coordinator that is called as an actor of Ray, and may be away, or answer nothing."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.calls: list[str] = []
        self.is_away = False
        self.is_stuck = False

    def __getattr__(self, method: str) -> Any:
        return _Method(self, method)


class _Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self._actor = actor
        self._name = name

    def remote(self, *arguments: Any, **options: Any) -> asyncio.Future[Any]:
        self._actor.calls.append(self._name)
        done = asyncio.get_running_loop().create_future()
        if self._actor.is_away:
            done.set_exception(LostError())
            done.exception()  # a call that nobody waits for is no error
        elif not self._actor.is_stuck:
            method = getattr(self._actor.coordinator, self._name)
            done.set_result(method(*arguments, **options))
        return done


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def coordinator(clock: Clock) -> Coordinator:
    """One that has run for so long that each replica has reported to it."""
    clock.now = -FIRST_SECONDS
    found = Coordinator(clock)
    clock.now = 0.0
    return found


@pytest.fixture
def actor(coordinator: Coordinator) -> Actor:
    return Actor(coordinator)


@pytest.fixture
def client(actor: Actor) -> CoordinatorClient:
    return CoordinatorClient(actor, (LostError,))


def test_a_server_alone_counts_its_quotas_itself() -> None:
    async def take() -> None:
        tenant = Tenant("acme", rows_per_second=1)
        for _ in range(10):
            await Quotas().take(tenant, "rows", 1)
        with pytest.raises(OverloadedError, match="the quota of 1 rows per second is used up"):
            await Quotas().take(tenant, "rows", 1)
        Quotas().correct(tenant, "rows", -5)
        await Quotas().take(tenant, "rows", 5)

    asyncio.run(take())


def test_replicas_share_a_quota(client: CoordinatorClient, clock: Clock) -> None:
    async def take() -> None:
        one, other = SharedQuotas(client), SharedQuotas(client)
        for _ in range(5):
            await one.take(LIMITED, "rows", 1)
            await other.take(LIMITED, "rows", 1)
        with pytest.raises(OverloadedError, match=r"the quota of . rows") as error:
            await other.take(LIMITED, "rows", 1)
        assert error.value.retry_after == pytest.approx(1)
        await one.take(LIMITED, "tokens", 100)
        one.correct(LIMITED, "tokens", -40)
        await other.take(LIMITED, "tokens", 40)
        with pytest.raises(OverloadedError, match="the quota of 10 tokens"):
            await one.take(LIMITED, "tokens", 1)
        clock.now = 2.0
        await other.take(LIMITED, "rows", 2)

    asyncio.run(take())


def test_a_changed_quota_begins_anew(client: CoordinatorClient) -> None:
    async def take() -> None:
        quotas = SharedQuotas(client)
        await quotas.take(LIMITED, "rows", 10)
        await quotas.take(Tenant("acme", rows_per_second=2), "rows", 20)

    asyncio.run(take())


def test_replicas_that_know_different_quotas_do_not_fill_them(client: CoordinatorClient) -> None:
    async def take() -> None:
        quotas, changed = SharedQuotas(client), Tenant("acme", rows_per_second=2)
        await quotas.take(LIMITED, "rows", 10)
        await quotas.take(changed, "rows", 20)
        for tenant in (LIMITED, changed, LIMITED):
            with pytest.raises(OverloadedError, match=r"the quota of . rows"):
                await quotas.take(tenant, "rows", 1)

    asyncio.run(take())


def test_a_tenant_without_a_quota_does_not_ask(client: CoordinatorClient, actor: Actor) -> None:
    async def take() -> None:
        actor.is_away = True
        await SharedQuotas(client).take(FREE, "rows", 10**9)
        SharedQuotas(client).correct(FREE, "rows", 10**9)

    asyncio.run(take())
    assert actor.calls == []


def test_a_coordinator_that_is_away_is_no_hang(
    client: CoordinatorClient, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_client, "PATIENCE", 0.01)

    async def take() -> None:
        quotas = SharedQuotas(client)
        actor.is_away = True
        with pytest.raises(UnavailableError, match="try again later"):
            await quotas.take(LIMITED, "rows", 1)
        quotas.correct(LIMITED, "rows", 1)
        actor.is_away, actor.is_stuck = False, True
        with pytest.raises(UnavailableError, match="try again later"):
            await quotas.take(LIMITED, "rows", 1)
        actor.is_stuck = False
        await quotas.take(LIMITED, "rows", 1)

    asyncio.run(take())


def report_of(requests: int) -> ServerReport:
    return ServerReport({"requests": requests}, b"packed")


def test_a_replica_that_is_lost_is_forgotten(coordinator: Coordinator, clock: Clock) -> None:
    coordinator.report("a", report_of(1))
    clock.now = 0.8 * LOST_SECONDS
    coordinator.report("b", report_of(2))
    assert coordinator.reports() == {"a": report_of(1), "b": report_of(2)}
    clock.now = 1.2 * LOST_SECONDS
    assert coordinator.reports() == {"b": report_of(2)}


def test_lost_replicas_are_forgotten_also_if_nobody_reads_the_reports(
    coordinator: Coordinator, clock: Clock
) -> None:
    for number in range(50):  # a service whose number of replicas follows the load
        clock.now = number * LOST_SECONDS
        coordinator.report(f"r{number}", report_of(number))
        coordinator.unload(f"r{number}", "acme/intent")
    assert len(coordinator._reports) <= 2
    assert len(coordinator._unloads) <= 2


def test_the_first_reports_to_a_new_coordinator_are_waited_for(clock: Clock) -> None:
    coordinator = Coordinator(clock)
    coordinator.report("a", report_of(1))
    clock.now = 0.9 * FIRST_SECONDS
    assert coordinator.reports() is None
    clock.now = FIRST_SECONDS
    assert coordinator.reports() == {"a": report_of(1)}


def test_a_report_without_metrics_keeps_those_before(coordinator: Coordinator) -> None:
    coordinator.report("a", report_of(1))
    coordinator.report("a", ServerReport({"requests": 2}))
    coordinator.report("b", ServerReport({"requests": 3}))
    assert coordinator.reports() == {"a": report_of(2), "b": ServerReport({"requests": 3})}
    short = coordinator.reports(with_metrics=False)
    assert short == {name: ServerReport({"requests": n}) for name, n in (("a", 2), ("b", 3))}


def test_each_other_replica_is_told_for_some_seconds_what_to_unload(
    coordinator: Coordinator, clock: Clock
) -> None:
    def names(replica: str) -> list[str]:
        return [unload.name for unload in coordinator.report(replica, report_of(0))]

    coordinator.unload("a", "acme/intent")
    clock.now = 0.5 * LOST_SECONDS
    coordinator.unload("b", "acme/topic")
    for _ in range(2):  # an answer may be lost
        assert (names("a"), names("b")) == (["acme/topic"], ["acme/intent"])
        assert names("c") == ["acme/intent", "acme/topic"]
    clock.now = 1.2 * LOST_SECONDS
    assert names("c") == ["acme/topic"]


def registry_of(replica: int) -> CollectorRegistry:
    """A registry with a metric of each kind."""
    registry = CollectorRegistry()
    Gauge("waiting", "Tokens that wait", registry=registry).set(replica)
    rows = Counter("rows", "Rows answered", ["adapter"], registry=registry)
    rows.labels("acme/intent").inc(replica)
    rows.labels("globex/topic").inc(10 * replica)
    Histogram("seconds", "Seconds", buckets=(1, 2), registry=registry).observe(replica)
    return registry


def test_the_metrics_of_replicas_are_one_valid_text() -> None:
    packed = {f"r{number}": pack_metrics(list(registry_of(number).collect())) for number in (1, 2)}
    text = merged_text(packed, lambda name: not name.startswith("globex/")).decode()
    for family in ("waiting", "rows_total", "seconds"):
        assert text.count(f"# HELP {family} ") == text.count(f"# TYPE {family} ") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    waiting = {one.labels["replica"]: one.value for one in families["waiting"].samples}
    assert waiting == {"r1": 1, "r2": 2}
    rows = [one for one in families["rows"].samples if one.name == "rows_total"]
    assert [(one.labels, one.value) for one in rows] == [
        ({"replica": "r1", "adapter": "acme/intent"}, 1),
        ({"replica": "r2", "adapter": "acme/intent"}, 2),
    ]
    counts = [one for one in families["seconds"].samples if one.name == "seconds_count"]
    assert [one.value for one in counts] == [1, 1]


def test_the_activity_of_replicas_is_summed() -> None:
    one = {"uptime": 5.0, "requests": 3, "p50": None, "queue_tokens": 4}
    other = {"uptime": 9.0, "requests": 4, "p50": 0.2, "queue_tokens": 0}
    slow = {"uptime": 1.0, "requests": 0, "p50": 0.5, "queue_tokens": 0}
    merged = {"uptime": 9.0, "requests": 7, "p50": 0.5, "queue_tokens": 4}
    assert merged_activity([one, other, slow]) == merged
    assert merged_activity([one]) == one


@pytest.fixture
def replicas(
    client: CoordinatorClient, tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Any
) -> Iterator[list[Service]]:
    """Two services of one store."""
    store = Store(tmp_path / "store")
    store.publish(make_adapter(tiny, name="acme/intent"), tiny.geometry)
    services = []
    for name in ("one", "two"):
        metrics = Metrics()
        cache = AdapterCache(store, tiny, 10**9, 0)
        engine = Engine(tiny, 256, 20_000, WorkerLanes(1, 1), metrics)
        metrics.observe(engine, cache)
        group = ReplicaGroup(name, client)
        services.append(Service(cache, engine, None, metrics, ServingLimits(), group=group))
    yield services
    for service in services:
        service.cache.close()


def group_of(service: Service) -> ReplicaGroup:
    assert isinstance(service.group, ReplicaGroup)
    return service.group


def test_any_replica_shows_and_unloads_for_all(replicas: list[Service], actor: Actor) -> None:
    one, other = replicas

    async def report() -> None:
        for service in replicas:
            await group_of(service).report(service)

    with TestClient(make_app(one)) as first, TestClient(make_app(other)) as second:
        for client in (first, first, second):
            body = {"adapter_id": "acme/intent", "inputs": "sun"}
            assert client.post("/predict", json=body).status_code == 200
        assert len(one.cache.memory) == len(other.cache.memory) == 1
        asyncio.run(report())
        for client in (first, second):
            lines = client.get("/metrics").text.splitlines()
            row = 'adapterkit_adapter_rows_total{adapter="acme/intent",replica="'
            assert sorted(line for line in lines if line.startswith(row)) == [
                f'{row}one"}} 2.0',
                f'{row}two"}} 1.0',
            ]
            activity = client.get("/v1/activity").json()
            assert (activity["requests"], activity["adapters"]) == (3, 2)
        reply = first.post("/admin/unload/acme/intent")
        assert reply.json() == {"name": "acme/intent", "unloaded": 1}
        asyncio.run(report())
        assert len(one.cache.memory) == len(other.cache.memory) == 0
        assert second.post("/predict", json=body).status_code == 200
        asyncio.run(report())
        assert len(other.cache.memory) == 1, "it was unloaded once"
        reply = first.get("/admin/drift/acme/intent")
        assert reply.status_code == 422
        assert "each replica counts its own answers" in reply.text
        actor.is_away = True
        reply = second.get("/metrics")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert first.post("/admin/unload/acme/intent").status_code == 503
        assert first.delete("/admin/adapters/acme/intent").status_code == 200


def test_a_new_coordinator_shows_no_part_of_the_replicas(
    replicas: list[Service], actor: Actor, clock: Clock
) -> None:
    actor.coordinator = Coordinator(clock)
    with TestClient(make_app(replicas[0])) as client:
        asyncio.run(group_of(replicas[0]).report(replicas[0]))
        for path in ("/metrics", "/v1/activity"):
            assert client.get(path).status_code == 503
        clock.now = FIRST_SECONDS
        assert client.get("/metrics").status_code == 200
        assert client.get("/v1/activity").json()["requests"] == 0


def test_a_report_that_fails_is_not_the_last_one(
    replicas: list[Service], actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_group, "REPORT_SECONDS", 0.001)
    service = replicas[0]

    class Broken(Collector):
        """Fails once."""

        def collect(self) -> Iterator[Metric]:
            service.metrics.registry.unregister(self)
            raise RuntimeError("a metric cannot be read")

    async def report() -> None:
        service.metrics.registry.register(Broken())
        group_of(service).start(service)
        async with asyncio.timeout(30):
            while "report" not in actor.calls:
                await asyncio.sleep(0.001)

    asyncio.run(report())
