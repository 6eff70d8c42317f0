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
from adapterkit.inference.pipeline import answer_rows
from adapterkit.inference.predictor import Predictor
from adapterkit.serving import engine as module
from adapterkit.serving.engine import Engine
from adapterkit.serving.queue import ACTIVE_SECONDS, Queue, Usage
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
    assert (queue.rows, queue.tokens, queue.tenants) == (0, 0, 0)


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
    for one in loud:
        assert queue.add(one) == []
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
    assert (queue.rows, queue.tokens) == (0, 0)


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


def running(
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


def test_answers_are_the_predictors(tiny: Backbone, adapters: list[Adapter]) -> None:
    texts = [f"i lost my card {'very ' * n}" for n in range(12)]
    rows = [(adapters[n % 3], text) for n, text in enumerate(texts)] + [(None, "the tea")]
    named = [(adapter.name if adapter else None, text) for adapter, text in rows]
    wanted = Predictor(tiny, adapters)(named)

    async def use(engine: Engine) -> list[list[Answer]]:
        return await asyncio.gather(
            *(engine.ask("a", rows, 30.0) for _ in range(5)),
            *(engine.ask("b", [row], 30.0) for row in rows),
        )

    got = running(tiny, use)
    for answers in (*got[:5], [one[0] for one in got[5:]]):
        for said, goal in zip(answers, wanted, strict=True):
            assert said.keys() == goal.keys()
            if "scores" in goal:
                assert said["label"] == goal["label"]
                assert said["scores"] == pytest.approx(goal["scores"], abs=1e-5)


def test_a_bad_text_is_its_own_callers_fault(tiny: Backbone, adapters: list[Adapter]) -> None:
    async def use(engine: Engine) -> list[Any]:
        asked = (
            engine.ask("a", [(adapters[0], "")], 30.0),
            engine.ask("b", [(adapters[0], "a card")], 30.0),
        )
        return list(await asyncio.gather(*asked, return_exceptions=True))

    bad, good = running(tiny, use)
    assert isinstance(bad, DataError)
    assert good[0]["label"] in ("no", "yes")


def test_a_row_that_breaks_the_forward_takes_no_other_with_it(
    tiny: Backbone, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = answer_rows

    def fragile(backbone: Backbone, rows: Sequence[tuple[Adapter | None, Example]]) -> Any:
        if any(adapter is adapters[1] for adapter, _ in rows):
            raise RuntimeError("this adapter breaks")
        return plain(backbone, rows)

    monkeypatch.setattr(module, "answer_rows", fragile)

    async def use(engine: Engine) -> list[Any]:
        asked = [engine.ask(a.name, [(a, "the card")] * 3, 30.0) for a in adapters]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, broken, last = running(tiny, use)
    assert isinstance(broken, RuntimeError)
    assert len(first) == len(last) == 3


def test_overload_is_told_with_a_time_to_wait(tiny: Backbone, adapters: list[Adapter]) -> None:
    async def use(engine: Engine) -> list[Any]:
        rows = [(adapters[0], "the card is lost")] * 8
        asked = [engine.ask("loud", rows, 30.0) for _ in range(40)]
        return await asyncio.gather(*asked, return_exceptions=True)

    said = running(tiny, use, max_queue_tokens=100)
    refused = [one for one in said if isinstance(one, OverloadedError)]
    answered = [one for one in said if isinstance(one, list)]
    assert refused
    assert answered
    assert len(refused) + len(answered) == 40
    assert all(0.0 < one.retry_after <= 60.0 for one in refused)


def test_nobody_waits_longer_than_asked(
    tiny: Backbone, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = answer_rows

    def slow(backbone: Backbone, rows: Any) -> Any:
        time.sleep(0.3)
        return plain(backbone, rows)

    monkeypatch.setattr(module, "answer_rows", slow)

    async def use(engine: Engine) -> list[Any]:
        asked = (
            engine.ask("a", [(adapters[0], "a card")], 0.05),
            engine.ask("a", [(adapters[0], "a card")], 30.0),
        )
        return list(await asyncio.gather(*asked, return_exceptions=True))

    late, good = running(tiny, use)
    assert isinstance(late, UnavailableError)
    assert isinstance(good, list)


def test_a_caller_who_hangs_up_leaves_the_queue(tiny: Backbone, adapters: list[Adapter]) -> None:
    async def use(engine: Engine) -> tuple[int, int]:
        rows = [(adapters[0], "the card is lost")] * 50
        asked = [asyncio.create_task(engine.ask("a", rows, 30.0)) for _ in range(20)]
        while engine.queue.rows < 500:
            await asyncio.sleep(0.001)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return engine.queue.rows, engine.queue.tokens

    assert running(tiny, use) == (0, 0)


def test_a_closing_engine_answers_what_is_here_and_takes_no_more(
    tiny: Backbone, adapters: list[Adapter]
) -> None:
    async def use() -> tuple[list[Any], bool]:
        engine = Engine(tiny, 64, 100_000, WorkerLanes(2, 1))
        engine.start()
        rows = [(adapters[0], "the card is lost")] * 30
        asked = [asyncio.create_task(engine.ask("a", rows, 30.0)) for _ in range(5)]
        while engine.queue.rows < 30:
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(engine.drain())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await engine.ask("a", rows, 30.0)
        said = await asyncio.gather(*asked, return_exceptions=True)
        await closing
        return said, engine.closing

    said, closing = asyncio.run(use())
    assert closing
    assert all(isinstance(one, (list, UnavailableError)) for one in said)
    assert sum(isinstance(one, list) for one in said) >= 1


def test_the_dominant_tenant_leaves_a_lane_to_other_active_tenants(
    tiny: Backbone, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request of a quiet tenant is answered while the batch of the other is still blocked."""
    held, plain = threading.Event(), answer_rows

    def slow(backbone: Backbone, rows: Any) -> Any:
        if any(adapter is adapters[0] for adapter, _ in rows):
            held.wait(10)
        return plain(backbone, rows)

    async def use(engine: Engine) -> bool:
        quiet = [(adapters[1], "a card")]
        flood = [(adapters[0], "the card is lost")] * 100
        await asyncio.gather(engine.ask("quiet", quiet, 30.0), engine.ask("loud", flood, 30.0))
        monkeypatch.setattr(module, "answer_rows", slow)
        flooding = [asyncio.create_task(engine.ask("loud", flood, 30.0)) for _ in range(5)]
        while engine.queue.rows < 400:
            await asyncio.sleep(0.001)
        await asyncio.wait_for(engine.ask("quiet", quiet, 30.0), 10)
        waited = not any(task.done() for task in flooding)
        held.set()
        await asyncio.gather(*flooding)
        return waited

    assert running(tiny, use)


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
