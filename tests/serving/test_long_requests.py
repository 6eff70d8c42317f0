"""Long texts on a server: limited and charged before any work, fair to other tenants, and ended
when nobody waits for the answer."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient
from starlette.types import Message

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import UnavailableError
from adapterkit.inference.lanes import WorkerLanes
from adapterkit.inference.pipeline import answer_rows, compute_outputs, encode_rows
from adapterkit.serving.app import make_app
from adapterkit.serving.engine import pending_row, tokenizing
from adapterkit.serving.engine.adapter_cache import AdapterCache
from adapterkit.serving.engine.engine import MAX_INLINE_CHARACTERS, Engine
from adapterkit.serving.engine.tokenizing import estimate_tokens
from adapterkit.serving.keys.api_keys import Keys, hash_key
from adapterkit.serving.keys.key_file import parse_keys
from adapterkit.serving.metrics.metrics import Metrics
from adapterkit.serving.middleware.disconnects import DisconnectWatch
from adapterkit.serving.service import Service
from adapterkit.serving.serving_limits import ServingLimits
from helpers.adapters import MakeAdapter
from helpers.server import serving
from helpers.task_adapters import random_task_adapter, read_example, request_row
from helpers.task_rows import every_task

LONG = "i lost my card in the rain " * 80


def running(backbone: Backbone, use: Callable[[Engine], Awaitable[Any]]) -> Any:
    """The result of a coroutine that uses an engine of one lane."""

    async def whole() -> Any:
        engine = Engine(backbone, 64, 100_000, WorkerLanes(1, 1))
        engine.start()
        try:
            return await use(engine)
        finally:
            await engine.drain()

    return asyncio.run(whole())


class Record:
    """The texts that were tokenised, in their order; the first one waits for `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[Any] = []
        self.release = threading.Event()
        monkeypatch.setattr(tokenizing, "encode_rows", self.encode)

    def encode(self, backbone: Backbone, rows: Any) -> Any:
        self.texts += [text for _, text, _ in rows]
        assert self.release.wait(10)
        return encode_rows(backbone, rows)


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition is met, and fails after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@every_task
def test_a_long_row_has_the_answer_of_the_predictor(
    tiny: Backbone, tmp_path: Path, kind: str
) -> None:
    adapter = random_task_adapter(tiny, kind, tmp_path)
    row = request_row(adapter, times=40)
    (expected,) = answer_rows(tiny, [(adapter, read_example(tiny, adapter, row))])

    async def use(engine: Engine) -> Any:
        return await engine.ask("a", [(adapter, row)], 30.0)

    (answer,) = running(tiny, use)
    assert_same(answer, expected)


def assert_same(found: Any, expected: Any) -> None:
    """Equal up to the rounding of batches of other sizes."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if type(found) is float else expected)


def test_texts_of_two_tenants_are_tokenised_in_turn(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(monkeypatch)

    async def use(engine: Engine) -> None:
        loud = [(None, f"{LONG} {number}") for number in range(12)]
        asking = [asyncio.create_task(engine.ask("loud", loud, 30.0)) for _ in range(2)]
        await until(lambda: bool(record.texts))
        quiet = asyncio.create_task(engine.ask("quiet", [(None, "quiet " + LONG)], 30.0))
        await until(lambda: engine.untokenized.tenants == 2)
        record.release.set()
        await quiet
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    running(tiny, use)
    # Both threads have a batch of the loud tenant; of the next two batches one is the other's.
    place = next(n for n, text in enumerate(record.texts) if text.startswith("quiet"))
    assert place < 12


def test_texts_of_a_cancelled_request_are_not_tokenised(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(monkeypatch)

    async def use(engine: Engine) -> int:
        rows = [(None, f"{LONG} {number}") for number in range(200)]
        asking = asyncio.create_task(engine.ask("a", rows, 30.0))
        await until(lambda: bool(record.texts))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        record.release.set()
        await engine.ask("a", [(None, LONG)], 30.0)
        return engine.untokenized.parts

    assert running(tiny, use) == 0
    assert len(record.texts) < 50, "only the batches that had begun"


def test_tokenising_has_the_deadline(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch)

    async def use(engine: Engine) -> Any:
        rows = [(None, f"{LONG} {number}") for number in range(200)]
        late = asyncio.create_task(engine.ask("a", rows, 0.1))
        (result,) = await asyncio.gather(late, return_exceptions=True)
        record.release.set()
        return result

    assert isinstance(running(tiny, use), UnavailableError)
    assert len(record.texts) < 50, "only the batches that had begun"


def test_a_long_text_is_computed_sequence_by_sequence(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of another tenant comes while most windows of a long text still wait, and the
    windows of a caller that has left are not computed."""
    adapter = random_task_adapter(tiny, "question_answering", tmp_path)
    row, release = request_row(adapter, times=400), threading.Event()
    n_windows = len(read_example(tiny, adapter, row).inputs)
    computed: list[int] = []

    def slow(backbone: Backbone, rows: Sequence[Any]) -> Any:
        assert release.wait(10)
        computed.extend(len(rows) for owner, _ in rows if owner is adapter)
        return compute_outputs(backbone, rows)

    monkeypatch.setattr(pending_row, "compute_outputs", slow)

    async def use(engine: Engine) -> int:
        long = asyncio.create_task(engine.ask("long", [(adapter, row)], 30.0))
        await until(lambda: engine.queue.parts > 0)
        short = asyncio.create_task(engine.ask("short", [(None, "the tea")], 30.0))
        await until(lambda: engine.queue.tenants == 2)
        release.set()
        await short
        waiting = engine.queue.parts
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        return waiting

    assert n_windows > 20
    assert running(tiny, use) > n_windows / 2
    assert len(computed) < n_windows / 2


# Limits and quotas.


def client_of(
    store: Store, backbone: Backbone, keys: Keys | None = None, **limits: Any
) -> TestClient:
    metrics = Metrics()
    cache = AdapterCache(store, backbone, 10**9, 0)
    engine = Engine(backbone, 256, 20_000, WorkerLanes(2, 1), metrics)
    metrics.observe(engine, cache)
    service = Service(cache, engine, keys, metrics, ServingLimits(**limits))
    return TestClient(make_app(service), raise_server_exceptions=False)


@pytest.fixture
def store(tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path) -> Store:
    store = Store(tmp_path / "shelf")
    store.publish(make_adapter(tiny), tiny.geometry)
    store.publish(random_task_adapter(tiny, "multiple_choice", tmp_path), tiny.geometry)
    return store


@pytest.fixture
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test when a text is tokenised."""

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a text was tokenised")

    monkeypatch.setattr("adapterkit.backbone.tokenizer.TextEncoder.encode", fail)


@pytest.mark.usefixtures("no_tokens")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a" * 2001], "text 1 has 2001 characters to read, at most 2000"),
        (["a", {"text": "a" * 2001}], "text 2 has 2001 characters to read, at most 2000"),
        (["a" * 1900] * 3, "the texts have 5700 characters to read, at most 5000"),
    ],
)
def test_a_text_that_is_too_long_is_refused_before_any_work(
    store: Store, tiny: Backbone, rows: list[Any], message: str
) -> None:
    body = {"requests": [{"adapter_id": "acme/intent", "inputs": row} for row in rows]}
    with client_of(store, tiny, row_characters=2000, request_characters=5000) as client:
        reply = client.post("/predict", json=body)
    assert reply.status_code == 413
    assert message in reply.json()["error"]
    assert reply.json()["error_type"] == "too_large"


@pytest.mark.usefixtures("no_tokens")
def test_choices_are_priced_by_what_they_expand_to(store: Store, tiny: Backbone) -> None:
    inputs = {"text": "a" * 20_000, "choices": [f"{number}" for number in range(120)]}
    with client_of(store, tiny) as client:
        body = {"requests": [{"adapter_id": "t/multiple-choice", "inputs": inputs}]}
        reply = client.post("/predict", json=body)
    assert (reply.status_code, len(json.dumps(body)) < 21_500) == (413, True)
    assert "text 1 has 2400370 characters to read" in reply.json()["error"]


def test_the_limit_is_described(store: Store, tiny: Backbone) -> None:
    with client_of(store, tiny, row_characters=2000) as client:
        assert client.get("/info").json()["max_row_characters"] == 2000


def test_a_quota_is_charged_before_tokenising_and_corrected(
    store: Store, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = {"key": hash_key("ak-a"), "adapters": ["acme/*"], "tokens_per_second": 1000.0}
    keys = Keys(parse_keys(json.dumps({"acme": caller}), "keys"))
    record = Record(monkeypatch)
    text = ("a " * MAX_INLINE_CHARACTERS)[: 4 * 9000]
    body = {"adapter_id": "acme/intent", "inputs": text + "a " * 17_000}
    with client_of(store, tiny, keys) as client, ThreadPoolExecutor(1) as pool:

        def ask() -> Any:
            return client.post("/predict", json=body, headers={"authorization": "Bearer ak-a"})

        assert estimate_tokens(len(str(body["inputs"]))) > 5000
        first = pool.submit(ask)
        while not record.texts:
            time.sleep(0.001)
        refused = ask()
        n_tokenised = len(record.texts)
        record.release.set()
        answered = first.result(), ask()
    assert refused.status_code == 429
    assert "1000 tokens per second" in refused.json()["error"]
    assert n_tokenised == 1, "a text without a quota is not tokenised"
    assert [reply.status_code for reply in answered] == [200, 200], "the rest is given back"


# Callers that disconnect.


async def watched(app: Any, messages: Sequence[Message], path: str = "/predict") -> list[Message]:
    """The messages that an application under `DisconnectWatch` sends to a caller.

    Args:
        app: The application.
        messages: What the caller sends; then it is silent.
        path: The path of the request.
    """
    waiting, sent = list(messages), list[Message]()

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(10):
        await DisconnectWatch(app)({"type": "http", "path": path}, receive, send)
    return sent


BODY: Message = {"type": "http.request", "body": b"{}", "more_body": False}
LEFT: Message = {"type": "http.disconnect"}


def test_the_work_for_a_caller_that_leaves_is_cancelled() -> None:
    events: list[str] = []

    async def app(_: Any, receive: Any, __: Any) -> None:
        await receive()
        try:
            await asyncio.Event().wait()
        finally:
            events.append("cancelled")

    with pytest.raises(HTTPException, match="disconnected"):
        asyncio.run(watched(app, [BODY, LEFT]))
    assert events == ["cancelled"]


def test_an_upload_is_completed_for_a_caller_that_leaves() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.2)
        await send({"type": "published"})

    sent = asyncio.run(watched(app, [BODY, LEFT], "/admin/adapters/acme/intent"))
    assert sent == [{"type": "published"}]


def test_a_caller_that_waits_gets_its_answer() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.2)
        await send({"type": "answer"})

    assert asyncio.run(watched(app, [BODY])) == [{"type": "answer"}]


def test_an_answer_that_has_begun_is_sent_to_its_end() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "first half"})
        await asyncio.sleep(0.2)
        await send({"type": "second half"})

    sent = asyncio.run(watched(app, [BODY, LEFT]))
    assert sent == [{"type": "first half"}, {"type": "second half"}]


def test_a_cancellation_from_elsewhere_is_passed_on() -> None:
    async def app(_: Any, receive: Any, __: Any) -> None:
        await receive()
        await asyncio.Event().wait()

    async def cancelled() -> None:
        task = asyncio.create_task(watched(app, [BODY]))
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_a_running_server_ends_the_work_for_a_caller_that_hangs_up(
    store: Store, tiny_folder: Path, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = random_task_adapter(tiny, "question_answering", tmp_path)
    store.publish(adapter, tiny.geometry)
    row = request_row(adapter, times=400)
    n_windows = len(read_example(tiny, adapter, row).inputs)
    computed: list[int] = []

    def slow(backbone: Backbone, rows: Sequence[Any]) -> Any:
        time.sleep(0.05)
        computed.append(len(rows))
        return compute_outputs(backbone, rows)

    monkeypatch.setattr(pending_row, "compute_outputs", slow)
    body = json.dumps({"requests": [{"adapter_id": "t/question-answering", "inputs": row}]})
    head = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    with serving(tmp_path / "shelf", tiny_folder, batch_tokens=64) as url:
        address = url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as connection:
            connection.sendall(head.encode() + body.encode())
            while len(computed) < 2:
                time.sleep(0.001)
    # The server drains when it ends: all that it still would compute is computed now.
    assert sum(computed) < n_windows
