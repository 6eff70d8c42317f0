"""The queue is fair and limited; the engine gives the same answers as the predictor."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError, OverloadedError, UnavailableError
from adapterkit.inference.lanes import WorkerLanes
from adapterkit.inference.pipeline import compute_outputs
from adapterkit.inference.predictor import Predictor
from adapterkit.serving.engine import pending_row as module
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.engine.queue import ACTIVE_SECONDS, Queue, Usage
from adapterkit.tasks.types import Answer, Example
from helpers.adapters import MakeAdapter
from helpers.requests import queued_request


def drained(queue: Queue, max_tokens: int) -> list[str]:
    """Tenants in the order in which they are served, in batches of `max_tokens`."""
    order = []
    while taken := queue.take(max_tokens):
        order += [row.request.tenant for row in taken]
    return order


def test_one_tenant_is_served_in_order_of_arrival() -> None:
    queue = Queue(10_000)
    requests = [queued_request("a", 3, 5), queued_request("a", 7), queued_request("a", 2)]
    for request in requests:
        assert queue.add(request) == []
    taken = queue.take(10_000)
    assert [(requests.index(row.request), row.index) for row in taken] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
    ]
    assert (queue.parts, queue.tokens, queue.tenants) == (0, 0, 0)


def test_a_flood_does_not_delay_a_quiet_tenant() -> None:
    queue = Queue(10_000)
    for _ in range(100):
        queue.add(queued_request("loud", 10))
    queue.take(50)
    queue.add(queued_request("quiet", 10))
    queue.add(queued_request("quiet", 10))
    served = drained(queue, 40)
    assert served.index("quiet") <= 1, served[:8]
    assert served[:8].count("quiet") == 2


def test_tenants_that_flood_get_equal_shares_of_tokens() -> None:
    queue = Queue(100_000)
    for _ in range(100):
        queue.add(queued_request("long", 40))
        queue.add(queued_request("short", 10))
    first = Counter[str]()
    while sum(first.values()) < 2000:
        for row in queue.take(100):
            first[row.request.tenant] += row.tokens
    assert abs(first["long"] - first["short"]) <= 100


def test_a_full_queue_refuses_the_tenant_with_the_most_tokens() -> None:
    queue = Queue(100)
    loud = [queued_request("loud", 10) for _ in range(10)]
    for request in loud:
        assert queue.add(request) == []
    more = queued_request("loud", 10)
    assert queue.is_full_for("loud")
    assert not queue.is_full_for("quiet")
    assert queue.add(more) == [more]
    quiet = queued_request("quiet", 10)
    assert queue.add(quiet) == [loud[-1]], "the latest request of the largest tenant is removed"
    assert queue.tokens == 100
    assert "quiet" in drained(queue, 20)


def test_one_request_larger_than_the_queue_is_answered_when_alone() -> None:
    queue = Queue(10)
    assert queue.add(queued_request("a", 50)) == []
    assert len(queue.take(10)) == 1


def test_late_and_removed_requests_are_skipped() -> None:
    queue = Queue(1000)
    late, removed, good = (
        queued_request("a", 5, deadline=0.0),
        queued_request("b", 5),
        queued_request("c", 5),
    )
    for request in (late, removed, good):
        queue.add(request)
    queue.remove(removed)
    queue.remove(removed)
    assert [row.request for row in queue.take(100)] == [good]
    assert isinstance(late.done.exception(), UnavailableError)
    assert (queue.parts, queue.tokens) == (0, 0)


def test_an_empty_queue_stores_no_tenants() -> None:
    queue = Queue(10_000)
    for number in range(20_000):
        queue.add(queued_request(f"tenant-{number}", 1))
        queue.take(100)
    assert queue.n_remembered == 0


@pytest.fixture
def adapters(tiny: Backbone, make_adapter: MakeAdapter) -> list[Adapter]:
    return [
        make_adapter(tiny, "lora", name="a/lora", seed=1),
        make_adapter(tiny, "prefix", name="b/prefix", seed=2, labels=("x", "y", "z")),
        make_adapter(tiny, "bottleneck", name="c/bottleneck", seed=3),
    ]


def with_engine(
    backbone: Backbone,
    use: Callable[[Engine], Any],
    max_queue_tokens: int = 100_000,
    lanes: int = 2,
) -> Any:
    """The result of a coroutine that uses a running engine."""

    async def whole() -> Any:
        engine = Engine(backbone, 64, max_queue_tokens, WorkerLanes(lanes, 1))
        engine.start()
        try:
            return await use(engine)
        finally:
            await engine.drain()

    return asyncio.run(whole())


def test_answers_equal_those_of_the_predictor(tiny: Backbone, adapters: list[Adapter]) -> None:
    texts = [f"i lost my card {'very ' * n}" for n in range(12)]
    rows = [(adapters[n % 3], text) for n, text in enumerate(texts)] + [(None, "the tea")]
    named = [(adapter.name if adapter else None, text) for adapter, text in rows]
    expected = Predictor(tiny, adapters)(named)

    async def use(engine: Engine) -> list[list[Answer]]:
        return await asyncio.gather(
            *(engine.ask("a", rows, 30.0) for _ in range(5)),
            *(engine.ask("b", [row], 30.0) for row in rows),
        )

    results = with_engine(tiny, use)
    single_rows = [answers[0] for answers in results[5:]]
    for answers in (*results[:5], single_rows):
        for answer, reference in zip(answers, expected, strict=True):
            assert answer.keys() == reference.keys()
            if "scores" in reference:
                assert answer["label"] == reference["label"]
                assert answer["scores"] == pytest.approx(reference["scores"], abs=1e-5)


def test_an_invalid_text_fails_only_its_own_request(
    tiny: Backbone, adapters: list[Adapter]
) -> None:
    async def use(engine: Engine) -> list[Any]:
        requests = (
            engine.ask("a", [(adapters[0], "")], 30.0),
            engine.ask("b", [(adapters[0], "a card")], 30.0),
        )
        return list(await asyncio.gather(*requests, return_exceptions=True))

    bad, good = with_engine(tiny, use)
    assert isinstance(bad, DataError)
    assert good[0]["label"] in ("no", "yes")


def test_a_row_that_fails_does_not_fail_the_others_of_its_batch(
    tiny: Backbone, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compute_outputs

    def fragile(backbone: Backbone, rows: Sequence[tuple[Adapter | None, Example]]) -> Any:
        if any(adapter is adapters[1] for adapter, _ in rows):
            raise RuntimeError("this adapter breaks")
        return plain(backbone, rows)

    monkeypatch.setattr(module, "compute_outputs", fragile)

    async def use(engine: Engine) -> list[Any]:
        requests = [engine.ask(a.name, [(a, "the card")] * 3, 30.0) for a in adapters]
        return await asyncio.gather(*requests, return_exceptions=True)

    first, broken, last = with_engine(tiny, use)
    assert isinstance(broken, RuntimeError)
    assert len(first) == len(last) == 3


def test_an_overload_error_has_a_time_to_wait(tiny: Backbone, adapters: list[Adapter]) -> None:
    async def use(engine: Engine) -> list[Any]:
        rows = [(adapters[0], "the card is lost")] * 8
        requests = [engine.ask("loud", rows, 30.0) for _ in range(40)]
        return await asyncio.gather(*requests, return_exceptions=True)

    results = with_engine(tiny, use, max_queue_tokens=100)
    refused = [result for result in results if isinstance(result, OverloadedError)]
    answered = [result for result in results if isinstance(result, list)]
    assert refused
    assert answered
    assert len(refused) + len(answered) == 40
    assert all(0.0 < error.retry_after <= 60.0 for error in refused)


def test_a_request_fails_after_its_timeout(
    tiny: Backbone, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compute_outputs

    def slow(backbone: Backbone, rows: Any) -> Any:
        time.sleep(0.3)
        return plain(backbone, rows)

    monkeypatch.setattr(module, "compute_outputs", slow)

    async def use(engine: Engine) -> list[Any]:
        requests = (
            engine.ask("a", [(adapters[0], "a card")], 0.05),
            engine.ask("a", [(adapters[0], "a card")], 30.0),
        )
        return list(await asyncio.gather(*requests, return_exceptions=True))

    late, good = with_engine(tiny, use)
    assert isinstance(late, UnavailableError)
    assert isinstance(good, list)


def test_a_cancelled_request_is_removed_from_the_queue(
    tiny: Backbone, adapters: list[Adapter]
) -> None:
    async def use(engine: Engine) -> tuple[int, int]:
        rows = [(adapters[0], "the card is lost")] * 50
        requests = [asyncio.create_task(engine.ask("a", rows, 30.0)) for _ in range(20)]
        while engine.queue.parts < 500:
            await asyncio.sleep(0.001)
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        return engine.queue.parts, engine.queue.tokens

    assert with_engine(tiny, use) == (0, 0)


def test_a_closing_engine_answers_waiting_requests_and_refuses_new_ones(
    tiny: Backbone, adapters: list[Adapter]
) -> None:
    async def use() -> tuple[list[Any], bool]:
        engine = Engine(tiny, 64, 100_000, WorkerLanes(2, 1))
        engine.start()
        rows = [(adapters[0], "the card is lost")] * 30
        requests = [asyncio.create_task(engine.ask("a", rows, 30.0)) for _ in range(5)]
        while engine.queue.parts < 30:
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(engine.drain())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await engine.ask("a", rows, 30.0)
        results = await asyncio.gather(*requests, return_exceptions=True)
        await closing
        return results, engine.closing

    results, closing = asyncio.run(use())
    assert closing
    assert all(isinstance(result, (list, UnavailableError)) for result in results)
    assert sum(isinstance(result, list) for result in results) >= 1


def test_the_dominant_tenant_leaves_a_lane_to_other_active_tenants(
    tiny: Backbone, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request of a quiet tenant is answered while the batch of the other is still blocked."""
    release, plain = threading.Event(), compute_outputs

    def slow(backbone: Backbone, rows: Any) -> Any:
        if any(adapter is adapters[0] for adapter, _ in rows):
            release.wait(10)
        return plain(backbone, rows)

    async def use(engine: Engine) -> bool:
        quiet = [(adapters[1], "a card")]
        flood = [(adapters[0], "the card is lost")] * 100
        await asyncio.gather(engine.ask("quiet", quiet, 30.0), engine.ask("loud", flood, 30.0))
        monkeypatch.setattr(module, "compute_outputs", slow)
        flooding = [asyncio.create_task(engine.ask("loud", flood, 30.0)) for _ in range(5)]
        while engine.queue.parts < 400:
            await asyncio.sleep(0.001)
        await asyncio.wait_for(engine.ask("quiet", quiet, 30.0), 10)
        waited = not any(task.done() for task in flooding)
        release.set()
        await asyncio.gather(*flooding)
        return waited

    assert with_engine(tiny, use)


def test_the_dominant_tenant_has_batches_of_its_own(
    tiny: Backbone, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start while no batch of the other tenants is computed."""
    batches: list[set[int]] = []
    running: list[set[int]] = []
    beside: list[set[int]] = []
    plain = compute_outputs

    def watched(backbone: Backbone, rows: Any) -> Any:
        batch = {id(adapter) for adapter, _ in rows}
        batches.append(batch)
        beside.extend(running if id(adapters[0]) in batch else [])
        running.append(batch)
        try:
            time.sleep(0.005)
            return plain(backbone, rows)
        finally:
            running.remove(batch)

    async def use(engine: Engine) -> None:
        flood = [(adapters[0], "the card is lost")] * 100
        quiet = [(adapters[1], "a card")]
        await asyncio.gather(engine.ask("quiet", quiet, 30.0), engine.ask("loud", flood, 30.0))
        monkeypatch.setattr(module, "compute_outputs", watched)
        flooding = asyncio.create_task(engine.ask("loud", flood * 4, 30.0))
        for _ in range(10):
            await engine.ask("quiet", quiet, 30.0)
        await flooding

    with_engine(tiny, use)
    loud, quiet = {id(adapters[0])}, {id(adapters[1])}
    assert loud in batches
    assert quiet in batches
    assert all(batch in (loud, quiet) for batch in batches)
    assert quiet not in beside


def test_usage_decays_and_inactive_tenants_are_removed() -> None:
    now = 100.0
    usage = Usage(clock=lambda: now)
    usage.add("loud", 1000)
    assert usage.dominant() is None, "a tenant that is alone is not dominant"
    usage.add("quiet", 10)
    assert usage.dominant() == "loud"
    now += ACTIVE_SECONDS - 1.0
    usage.add("loud", 100_000)
    assert usage.dominant() == "loud", "the quiet tenant is still active"
    now += 2.0
    assert usage.dominant() is None, "no other tenant is active"
    usage.add("quiet", 10)
    assert usage.dominant() == "loud"
    now += 60.0
    assert usage.dominant() is None
    assert usage.tenants == frozenset(), "no name is stored"
