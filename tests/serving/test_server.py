"""The server over HTTP: common clients, hostile clients, and permissions."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import re
import socket
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError
from adapterkit.inference.lanes import WorkerLanes
from adapterkit.inference.predictor import Predictor
from adapterkit.serving.app import make_app
from adapterkit.serving.bodies.uploads import unpack
from adapterkit.serving.engine.adapter_cache import AdapterCache
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.http.binary_tensors import HEADER_LENGTH
from adapterkit.serving.json_logs import JsonFormatter, log
from adapterkit.serving.keys.api_keys import EVERYONE, Keys, hash_key
from adapterkit.serving.keys.key_file import KeyFile, parse_keys
from adapterkit.serving.listening import check_host
from adapterkit.serving.metrics.metrics import Metrics
from adapterkit.serving.middleware import body_limits
from adapterkit.serving.middleware.body_limits import BodyLimits
from adapterkit.serving.service import Service
from adapterkit.serving.serving_limits import ServingLimits
from adapterkit.serving.text_log.recognisers import Recognisers
from adapterkit.serving.text_log.text_log import MaskedTextLog, TextLog
from adapterkit.serving.tracing import VARIABLE, Traces
from adapterkit.tasks.base import tasks
from helpers.adapters import MakeAdapter
from helpers.server import serving
from helpers.tolerance import assert_close

KEYS = {"acme": "ak-acme", "globex": "ak-globex", "ops": "ak-ops", "small": "ak-small"}
CALLERS = {
    "acme": {"key": hash_key("ak-acme"), "adapters": ["acme/*"]},
    "globex": {"key": hash_key("ak-globex"), "adapters": ["globex/*"]},
    "small": {"key": hash_key("ak-small"), "adapters": ["acme/*"], "rows_per_second": 1.0},
    "ops": {"key": hash_key("ak-ops"), "adapters": ["*"], "admin": True},
}


@pytest.fixture(scope="module")
def adapters(tiny: Backbone, make_adapter: MakeAdapter) -> dict[str, Adapter]:
    """Adapters of three methods and three label sets, one of them a tagger and one that answers
    questions."""
    ready = [
        make_adapter(tiny, "lora", name="acme/intent", seed=1),
        make_adapter(tiny, "prefix", name="globex/topic", seed=2, labels=("茶", "银行", "z")),
        make_adapter(tiny, "bottleneck", name="acme/mood", seed=3),
    ]
    for name, kind, settings in (
        ("acme/entities", "tagging", {"labels": ("O", "B-THING", "I-THING")}),
        ("acme/answers", "question_answering", {}),
    ):
        task = tasks()[kind](**settings)
        base = make_adapter(tiny, "lora", name=name, seed=4)
        shapes = task.head_shapes(tiny.geometry.hidden)
        like = make_adapter(tiny, "lora", labels=tuple("abcdefgh"), seed=5).head
        flat = like["classifier.weight"].flatten()
        head = {k: flat[: math.prod(s)].reshape(s).clone() for k, s in shapes.items()}
        ready.append(replace(base, task=task, head=head))
    return {adapter.name: adapter for adapter in ready}


@pytest.fixture
def store(tiny: Backbone, adapters: dict[str, Adapter], tmp_path: Path) -> Store:
    store = Store(tmp_path / "shelf")
    for adapter in adapters.values():
        store.publish(adapter, tiny.geometry)
    return store


def serve(
    store: Store,
    backbone: Backbone,
    keys: Keys | None = None,
    traces: Traces | None = None,
    **limits: Any,
) -> TestClient:
    metrics = Metrics(traces)
    cache = AdapterCache(store, backbone, 10**9, 0)
    engine = Engine(backbone, 256, 20_000, WorkerLanes(2, 1), metrics)
    metrics.observe(engine, cache)
    service = Service(cache, engine, keys, metrics, ServingLimits(**limits))
    return TestClient(make_app(service), raise_server_exceptions=False)


@pytest.fixture
def client(store: Store, tiny: Backbone) -> Iterator[TestClient]:
    with serve(store, tiny) as client:
        yield client


@pytest.fixture
def keyed(store: Store, tiny: Backbone) -> Iterator[TestClient]:
    with serve(store, tiny, Keys(parse_keys(json.dumps(CALLERS), "keys"))) as client:
        yield client


def ask(client: TestClient, body: Any, key: str | None = None, path: str = "/predict") -> Any:
    return client.post(path, json=body, headers=bearer(key))


def bearer(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def files_of(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file()]


def folder_as_tar(folder: Path, **changes: bytes | None) -> bytes:
    """An adapter folder as a tar archive, with some files changed, added or removed."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files_of(folder)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in {**files, **changes}.items():
            if content is not None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_answers_equal_those_of_the_predictor(
    client: TestClient, tiny: Backbone, adapters: dict[str, Adapter]
) -> None:
    question = {"question": "where is my card", "context": "the card is in the tea. 银行 is closed"}
    rows: list[tuple[str, Any]] = [
        ("acme/intent", "i lost my card"),
        ("globex/topic", "茶"),
        ("acme/answers", question),
        ("acme/mood", "not very good"),
        ("acme/entities", "the laptop screen is slow"),
        ("acme/intent", ["a card", "a bank"]),
        ("base", "sun"),
    ]
    expected = Predictor(tiny, adapters.values())(rows)
    body = {"requests": [{"adapter_id": name, "inputs": text} for name, text in rows]}
    response = ask(client, body)
    assert response.status_code == 200
    for answer, reference, (name, _) in zip(response.json(), expected, rows, strict=True):
        assert answer.pop("adapter_id") == name
        assert answer.pop("version", 1) == 1
        reference.pop("adapter")
        assert_close(answer, json.loads(json.dumps(reference)))


def test_the_formats_of_tei(client: TestClient) -> None:
    labels = ask(client, {"inputs": "i lost my card", "adapter_id": "acme/intent"}).json()
    assert [set(label) for label in labels] == [{"label", "score"}] * 2
    assert labels[0]["score"] >= labels[1]["score"]
    pair = ask(client, {"inputs": ["a card", "a bank"], "model": "acme/intent@1"}).json()
    assert len(pair) == 2, "a flat list of two texts is one pair"
    assert isinstance(pair[0], dict)
    batch = ask(client, {"inputs": [["a card"], ["a card", "a bank"]], "model": "acme/intent"})
    assert_close(batch.json()[1], pair)
    spans = ask(client, {"inputs": "the laptop screen", "adapter_id": "acme/entities"}).json()
    assert all(set(s) == {"entity_group", "score", "word", "start", "end"} for s in spans)
    row = {"question": "where is it", "context": "the card is in the tea"}
    span = ask(client, {"inputs": row, "adapter_id": "acme/answers"}).json()
    assert set(span) == {"answer", "score", "start", "end"}


def test_vectors_and_similarities(client: TestClient) -> None:
    first, second = ask(client, {"inputs": ["a card", "a bank"]}, path="/embed").json()
    assert sum(x * x for x in first) == pytest.approx(1.0)
    raw = ask(client, {"inputs": "a card", "normalize": False}, path="/embed").json()[0]
    assert sum(x * x for x in raw) != pytest.approx(1.0)
    sentences = {"source_sentence": "a card", "sentences": ["a card", "a bank"]}
    same, other = ask(client, {"inputs": sentences}, path="/similarity").json()
    assert same == pytest.approx(1.0)
    assert other == pytest.approx(sum(a * b for a, b in zip(first, second, strict=True)), abs=1e-5)
    refused = ask(client, {"inputs": "a", "adapter_id": "acme/intent"}, path="/embed")
    assert refused.status_code == 422


def test_the_open_inference_protocol(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").status_code == 200
    about = client.get("/v2/models/acme/intent").json()
    assert (about["name"], about["versions"]) == ("acme/intent", ["1"])
    assert client.get("/v2/models/acme/intent/ready").json()["ready"]
    assert client.get("/v2/models/acme/nobody/ready").status_code == 404
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a card", "茶"]}
    body = {"id": "7", "inputs": [tensor]}
    for path in ("/v2/models/acme/intent/infer", "/v2/models/acme/intent/versions/1/infer"):
        response = ask(client, body, path=path).json()
        assert (response["model_name"], response["model_version"], response["id"]) == (
            "acme/intent",
            "1",
            "7",
        )
        outputs = {output["name"]: output for output in response["outputs"]}
        assert outputs["label"]["shape"] == [2]
        assert json.loads(outputs["answer"]["data"][0])["label"] == outputs["label"]["data"][0]
    vectors = ask(client, body, path="/v2/models/base/infer").json()["outputs"]
    shapes = {output["name"]: output["shape"] for output in vectors}
    assert shapes["vector"] == [2, 32]
    wrong = {"inputs": [{**tensor, "shape": [3]}]}
    assert ask(client, wrong, path="/v2/models/acme/intent/infer").status_code == 422


def test_models_come_in_pages(client: TestClient) -> None:
    whole = client.get("/v1/models").json()
    names = [model["id"] for model in whole["data"]]
    assert names[0] == "base"
    assert names[1:] == sorted(names[1:])
    assert len(names) == 6
    page = client.get("/v1/models", params={"after": names[2], "limit": 2}).json()
    assert [model["id"] for model in page["data"]] == names[3:5]
    assert page["has_more"]
    model = client.get("/v1/models/globex/topic").json()
    assert (model["owned_by"], model["method"]) == ("globex", "prefix")
    assert model["labels"] == ["茶", "银行", "z"]
    assert (model["versions"], model["aliases"]) == ([1], {"latest": 1})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"inputs": "a", "adapter_id": "acme/nobody"}, 404),
        ({"inputs": "a", "adapter_id": "acme/intent@9"}, 404),
        ({"inputs": "a", "adapter_id": "acme/intent@stable"}, 404),
        ({"inputs": "a", "adapter_id": "../../etc/passwd"}, 422),
        ({"inputs": "a", "adapter_id": "/etc/passwd"}, 422),
        ({"inputs": "a", "adapter_id": "acme/../globex/topic"}, 422),
        ({"inputs": "a", "adapter_id": "acme/intent@../../x"}, 404),
        ({"inputs": "a", "adapter_id": "acme/intent\u0000"}, 422),
        ({"inputs": "a", "adapter_id": "x" * 300}, 422),
        ({"inputs": ""}, 422),
        ({"inputs": "   "}, 422),
        ({"inputs": []}, 422),
        ({"inputs": [[]]}, 422),
        ({"inputs": ["a", "b", "c"]}, 422),
        ({"inputs": 7}, 422),
        ({"inputs": None}, 422),
        ({}, 422),
        ({"inputs": "a", "requests": [{"inputs": "a"}]}, 422),
        ({"requests": []}, 422),
        ({"requests": [{"inputs": "a"}] * 300}, 422),
        ({"inputs": "a", "raw_scores": True}, 422),
        ({"inputs": "a", "unknown": 1}, 422),
        ({"inputs": {"question": [], "context": "x"}, "adapter_id": "acme/answers"}, 422),
        ({"inputs": "a", "adapter_id": "acme/answers"}, 422),
        ([1, 2], 422),
        ("a", 422),
    ],
)
def test_invalid_bodies_get_a_status_and_a_message(
    client: TestClient, body: Any, status: int
) -> None:
    response = ask(client, body)
    assert response.status_code == status, response.text
    reply = response.json()
    assert set(reply) == {"error", "error_type"}
    assert reply["error"]
    assert ask(client, {"inputs": "a", "adapter_id": "acme/intent"}).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"nonsense", 400),
        (b'{"inputs": ' + b"[" * 1000 + b"]" * 1000 + b"}", 400),
        (b'{"inputs": ' + b"[" * 100_000, 422),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422),
        (b'{"inputs": NaN}', 422),
        (b'{"inputs": {"text": NaN}}', 422),
        (b'{"inputs": ' + b"9" * 5000 + b"}", 400),
        (b'{"inputs": "\\ud800"}', 400),
        (b'{"inputs": "a\\u0000b\\u001b"}', 200),
    ],
)
def test_hostile_bytes(client: TestClient, content: bytes, status: int) -> None:
    response = client.post(
        "/predict", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == status, response.text
    if status != 200:
        assert set(response.json()) == {"error", "error_type"}
    if status == 400:
        assert response.json()["error"].startswith("the body is not JSON: ")


def test_long_texts_are_truncated_or_refused(client: TestClient) -> None:
    text = "the card is lost " * 6000
    cut = ask(client, {"inputs": text, "adapter_id": "acme/intent"})
    assert cut.status_code == 200
    assert cut.headers["x-truncated"] == "1"
    refused = ask(client, {"inputs": text, "adapter_id": "acme/intent", "truncate": False})
    assert refused.status_code == 422
    assert "64 tokens" in refused.json()["error"]


def test_bodies_have_a_size_limit(store: Store, tiny: Backbone) -> None:
    with serve(store, tiny, body_bytes=10_000) as client:
        assert ask(client, {"inputs": "a" * 9000}).status_code == 200
        reply = ask(client, {"inputs": "a" * 11_000})
        assert (reply.status_code, reply.json()["error_type"]) == (413, "too_large")

        def pieces() -> Iterator[bytes]:
            yield b'{"inputs": "'
            for _ in range(100):
                yield b"a" * 1000

        kind = {"content-type": "application/json"}
        assert client.post("/predict", content=pieces(), headers=kind).status_code == 413


def test_errors_of_unknown_paths_and_methods_are_json(client: TestClient) -> None:
    assert client.get("/nowhere").json()["error_type"] == "not_found"
    assert client.get("/predict").status_code == 405
    assert client.get("/predict").headers["allow"] == "POST"
    assert client.options("/admin/adapters/a/b").headers["allow"] == "DELETE, GET, HEAD, PUT"
    assert set(client.get("/predict").json()) == {"error", "error_type"}


@pytest.mark.parametrize("path", ["/predict", "/v1/models"])
def test_an_unexpected_exception_is_status_500(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Service, "answer", broken)
    monkeypatch.setattr(Service, "in_thread", broken)
    reply = client.get(path) if path == "/v1/models" else ask(client, {"inputs": "hello"})
    assert reply.status_code == 500
    assert reply.json() == {
        "error": "the server failed; the log says why",
        "error_type": "backend",
    }


def test_other_host_names_are_refused(client: TestClient) -> None:
    assert client.get("/info", headers={"host": "evil.example"}).status_code == 400


def test_a_broken_adapter_is_status_500_and_others_still_answer(
    client: TestClient, store: Store
) -> None:
    (store.path("acme/intent") / WEIGHTS).write_bytes(b"broken")
    reply = ask(client, {"inputs": "a", "adapter_id": "acme/intent"})
    assert (reply.status_code, reply.json()["error_type"]) == (500, "backend")
    assert str(store.root) not in reply.text
    assert ask(client, {"inputs": "a", "adapter_id": "acme/mood"}).status_code == 200


def test_a_tenant_sees_only_its_own_adapters(keyed: TestClient) -> None:
    mine = {"inputs": "a", "adapter_id": "acme/intent"}
    theirs = {"inputs": "a", "adapter_id": "globex/topic"}
    nobodys = {"inputs": "a", "adapter_id": "globex/nothing"}
    assert ask(keyed, mine, KEYS["acme"]).status_code == 200
    refused, unknown = (ask(keyed, body, KEYS["acme"]) for body in (theirs, nobodys))
    assert refused.status_code == unknown.status_code == 404
    assert refused.text.replace("topic", "nothing") == unknown.text, (
        "both errors must have the same message"
    )
    mixed = {"requests": [mine, theirs]}
    assert ask(keyed, mixed, KEYS["acme"]).status_code == 404
    listed = keyed.get("/v1/models", headers=bearer(KEYS["acme"])).json()["data"]
    assert {model["id"].partition("/")[0] for model in listed} == {"base", "acme"}
    for path in ("/v1/models/globex/topic", "/v2/models/globex/topic"):
        assert keyed.get(path, headers=bearer(KEYS["acme"])).status_code == 404
        assert keyed.get(path, headers=bearer(KEYS["globex"])).status_code == 200


@pytest.mark.parametrize("key", [None, "", "ak-wrong", "AK-ACME", hash_key("ak-acme")])
def test_a_key_is_required(keyed: TestClient, key: str | None) -> None:
    for response in (
        ask(keyed, {"inputs": "a", "adapter_id": "acme/intent"}, key),
        keyed.get("/v1/models", headers=bearer(key)),
        keyed.get("/metrics", headers=bearer(key)),
        keyed.post("/admin/unload/acme/intent", headers=bearer(key)),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    assert keyed.get("/health").status_code == 200
    assert keyed.get("/ready").status_code == 200


def test_admin_routes_need_an_admin_key(keyed: TestClient, store: Store) -> None:
    for method, path in (
        ("GET", "/metrics"),
        ("GET", "/admin/adapters/acme/intent"),
        ("PUT", "/admin/adapters/acme/intent"),
        ("DELETE", "/admin/adapters/acme/intent"),
        ("PUT", "/admin/aliases/stable/acme/intent"),
        ("POST", "/admin/rollback/acme/intent"),
        ("POST", "/admin/unload/acme/intent"),
        ("GET", "/admin/verify/acme/intent"),
    ):
        body = {"json": {"version": 1}} if "alias" in path else {}
        reply = keyed.request(method, path, headers=bearer(KEYS["acme"]), **body)  # type: ignore[arg-type]
        assert (reply.status_code, reply.json()["error_type"]) == (403, "forbidden"), path
    assert store.versions("acme/intent") == ([1], {"latest": 1})
    assert keyed.get("/metrics", headers=bearer(KEYS["ops"])).status_code == 200


def test_a_used_up_quota_gives_retry_after(keyed: TestClient) -> None:
    body = {"inputs": "a", "adapter_id": "acme/intent"}
    response = [ask(keyed, body, KEYS["small"]) for _ in range(30)]
    statuses = [response.status_code for response in response]
    assert statuses[:10] == [200] * 10
    assert 429 in statuses
    reply = response[statuses.index(429)]
    assert reply.json()["error_type"] == "overloaded"
    assert int(reply.headers["retry-after"]) >= 1
    assert ask(keyed, body, KEYS["acme"]).status_code == 200, (
        "quotas of other tenants are not affected"
    )


def test_keys_can_be_removed_while_the_server_runs(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps(CALLERS))
    now = 0.0
    keys = KeyFile(file, clock=lambda: now)
    assert keys.find("ak-acme") is not None
    file.write_text(json.dumps({"globex": CALLERS["globex"]}))
    now += 2.0
    assert keys.find("ak-acme") is None
    assert keys.find("ak-globex") is not None
    file.write_text("{broken")
    now += 2.0
    assert keys.find("ak-globex") is not None, "a broken file changes nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected tenants"),
        ("acme: 7", "acme"),
        ("acme: {key: plain}", "acme.key"),
        (f"acme: {{key: '{hash_key('a')}', adapter: [x]}}", "did you mean 'adapters'"),
        (f"acme: {{key: '{hash_key('a')}', rows_per_second: 0}}", "more than 0"),
        (f"a: {{key: '{hash_key('a')}'}}\nb: {{key: '{hash_key('a')}'}}", "same key"),
        (f"acme: {{key: '{hash_key('a')}', adapters: acme}}", "expected a list"),
        ("a: [", "keys.yaml"),
        (f"a: {{key: '{hash_key('a')}'}}\na: {{key: '{hash_key('b')}'}}", "given twice"),
    ],
)
def test_an_error_in_a_key_file_is_named(text: str, message: str) -> None:
    with pytest.raises(AdapterkitError, match=r"keys.yaml") as error:
        parse_keys(text, "keys.yaml")
    assert message in str(error.value)


def test_a_server_without_keys_listens_on_loopback_only() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_host(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(AdapterkitError, match="--keys"):
            check_host(host, None)
        check_host(host, Keys({}))


def test_publish_alias_roll_back_and_delete_on_a_running_server(
    client: TestClient, store: Store, tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    body = {"requests": [{"adapter_id": "acme/intent", "inputs": "i lost my card"}]}
    before = ask(client, body).json()[0]
    other = Store(tmp_path / "elsewhere")
    folder = other.publish(
        make_adapter(tiny, "bottleneck", name="acme/intent", seed=9, labels=("a", "b", "c")),
        tiny.geometry,
    )
    kind = {"content-type": "application/x-tar"}
    done = client.put("/admin/adapters/acme/intent", content=folder_as_tar(folder), headers=kind)
    assert (done.status_code, done.json()["version"]) == (201, 2), done.text
    after = ask(client, body).json()[0]
    assert (after["version"], set(after["scores"])) == (2, {"a", "b", "c"})
    old = {"requests": [{"adapter_id": "acme/intent@1", "inputs": "i lost my card"}]}
    assert_close(ask(client, old).json()[0], before)

    put = client.put("/admin/aliases/stable/acme/intent", json={"version": 1})
    assert put.json()["aliases"] == {"latest": 2, "stable": 1}
    stable = {"requests": [{"adapter_id": "acme/intent@stable", "inputs": "i lost my card"}]}
    assert_close(ask(client, stable).json()[0], before)

    assert client.post("/admin/rollback/acme/intent").json()["version"] == 1
    assert_close(ask(client, body).json()[0], before)
    assert client.post("/admin/rollback/acme/intent").status_code == 404
    assert client.post("/admin/unload/acme/intent").json()["unloaded"] == 2
    assert_close(ask(client, body).json()[0], before)
    shown = client.get("/admin/adapters/acme/intent").json()
    assert [version["version"] for version in shown["versions"]] == [1, 2]
    assert shown["resident"] == {"memory": True}

    assert client.delete("/admin/adapters/acme/intent", params={"version": 1}).status_code == 422
    assert client.delete("/admin/adapters/acme/intent", params={"version": 2}).status_code == 200
    assert client.delete("/admin/aliases/stable/acme/intent").status_code == 200
    assert client.delete("/admin/adapters/acme/intent").status_code == 200
    assert ask(client, body).status_code == 404
    parts = {p.name: (p.name, p.read_bytes()) for p in folder.iterdir() if p.is_file()}
    again = client.put("/admin/adapters/acme/intent", files=parts)
    assert (again.status_code, again.json()["version"]) == (201, 1), again.text
    assert set(ask(client, body).json()[0]["scores"]) == {"a", "b", "c"}


def test_checksums_are_verified(client: TestClient, store: Store) -> None:
    assert client.get("/admin/verify/acme/intent").json()["faults"] == []
    (store.path("acme/intent") / "README.md").write_text("changed")
    assert "README.md was changed" in client.get("/admin/verify/acme/intent").json()["faults"][0]


BAD_FOLDERS: dict[str, dict[str, bytes | None]] = {
    "without weights": {WEIGHTS: None},
    "without a card": {"adapterkit.json": None},
    "broken weights": {WEIGHTS: b"broken", SUMS: None},
    "weights that differ from their checksum": {WEIGHTS: b"broken"},
    "broken card": {"adapterkit.json": b"{}", SUMS: None},
    "a file of its own": {"run.sh": b"rm -rf /"},
    "a path that climbs": {"../../evil": b"x"},
    "an absolute path": {"/etc/evil": b"x"},
    "pickled weights": {"pytorch_model.bin": b"x"},
}


@pytest.mark.parametrize("what", BAD_FOLDERS)
def test_an_invalid_folder_is_refused_and_the_store_is_unchanged(
    client: TestClient, store: Store, what: str
) -> None:
    folder = store.path("acme/intent")
    before = sorted(str(p) for p in store.root.rglob("*"))
    content = folder_as_tar(folder, **BAD_FOLDERS[what])
    kind = {"content-type": "application/x-tar"}
    reply = client.put("/admin/adapters/acme/intent", content=content, headers=kind)
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation"), reply.text
    assert str(store.root) not in reply.text
    fresh = client.put("/admin/adapters/new/name", content=content, headers=kind)
    assert fresh.status_code == 422
    after = sorted(str(p) for p in store.root.rglob("*") if p.name not in (".lock", "new", "name"))
    assert [p for p in before if not p.endswith(".lock")] == after
    assert "new/name" not in store.names()
    assert ask(client, {"inputs": "a", "adapter_id": "acme/intent"}).status_code == 200


def test_hostile_archives_are_refused(store: Store) -> None:
    folder = store.path("acme/intent")
    assert unpack(io.BytesIO(folder_as_tar(folder)), 10**9).keys() >= {WEIGHTS, SUMS}
    for content in (b"", b"not a tar", folder_as_tar(folder)[:700]):
        with pytest.raises(AdapterkitError, match="not a tar"):
            unpack(io.BytesIO(content), 10**9)
    with pytest.raises(AdapterkitError, match="too large"):
        unpack(io.BytesIO(folder_as_tar(folder)), 1000)
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w") as archive:
        member = tarfile.TarInfo("README.md")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(AdapterkitError, match="not a regular file"):
        unpack(io.BytesIO(link.getvalue()), 10**9)


def test_unknown_names_are_not_stored(client: TestClient, store: Store) -> None:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    for number in range(3000):
        with pytest.raises(AdapterkitError):
            store.find(f"nobody/number-{number}")
    for number in range(100):
        ask(client, {"inputs": "a", "adapter_id": f"nobody/number-{number}"})
    assert store.n_cached <= 6
    assert len(service.cache.memory) <= 6
    text = client.get("/metrics").text
    assert "nobody" not in text


def test_metrics_count_the_work(client: TestClient) -> None:
    ask(client, {"inputs": [["a"], ["b"], ["c"]], "adapter_id": "acme/intent"})
    ask(client, {"inputs": ""})
    text = client.get("/metrics").text
    assert 'adapterkit_adapter_rows_total{adapter="acme/intent"} 3.0' in text
    assert 'adapterkit_requests_total{status="422"} 1.0' in text
    assert "adapterkit_loads_total 1.0" in text
    assert 'adapterkit_resident_adapters{tier="memory"} 1.0' in text
    assert 'adapterkit_stage_seconds_count{stage="queue"} 1.0' in text
    assert "adapterkit_batch_rows_sum 3.0" in text


def test_the_description_covers_every_route(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/embed", "/similarity", "/v1/models", "/info", "/metrics"} <= paths.keys()
    assert "/v2/models/{name}/infer" in paths
    assert client.get("/docs").status_code == 200


def test_the_description_has_the_patterns_of_names(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    paths, schemas = described["paths"], described["components"]["schemas"]
    (name,) = paths["/v1/models/{name}"]["get"]["parameters"]
    alias, _ = paths["/admin/aliases/{alias}/{name}"]["put"]["parameters"]
    reference = schemas["EmbedBody"]["properties"]["adapter_id"]["anyOf"][0]
    for schema, valid, invalid in (
        (name["schema"], ["intent", "acme/intent"], ["", "acme/../intent", "a/b/c", "é", "a@1"]),
        (alias["schema"], ["stable", "v1.2"], ["", "Stable", "1"]),
        (
            reference,
            ["base", "acme/intent", "acme/intent@12", "a@stable"],
            ["", "a@", "a@0", "a b"],
        ),
    ):
        assert all(re.search(schema["pattern"], text) for text in valid)
        assert not any(re.search(schema["pattern"], text) for text in invalid)
    assert set(paths["/admin/adapters/{name}"]["put"]["requestBody"]["content"]) == {
        "application/x-tar",
        "multipart/form-data",
    }


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/unload/..x", None),
        ("POST", "/predict", {"inputs": "a", "adapter_id": ""}),
        ("POST", "/embed", {"inputs": []}),
    ],
)
def test_invalid_names_and_texts_are_refused(
    client: TestClient, method: str, path: str, body: Any
) -> None:
    response = client.request(method, path, json=body)
    assert (response.status_code, response.json()["error_type"]) == (422, "validation")


def test_a_request_is_a_span_with_its_stages_as_children(
    store: Store, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Traces.from_environment() is None
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry is not installed")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serve(store, tiny, traces=Traces(provider)) as client:
        body = {"inputs": "a secret text", "adapter_id": "acme/intent"}
        client.post("/predict", json=body, headers={"traceparent": parent})
    spans: dict[str, Any] = {span.name: span for span in kept.get_finished_spans()}
    assert spans.keys() == {"POST /predict", "tokenise", "queue", "answer"}
    whole = spans["POST /predict"]
    assert f"{whole.context.trace_id:032x}" == parent[3:35]
    assert all(spans[n].parent.span_id == whole.context.span_id for n in spans if n[0] != "P")
    assert whole.attributes["adapterkit.status"] == 200
    assert "secret" not in str([span.to_json() for span in spans.values()])


def test_logs_hold_no_texts(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.StringIO()
    handler = logging.StreamHandler(kept)
    handler.setFormatter(JsonFormatter())
    monkeypatch.setattr(log, "handlers", [handler])
    before = log.level
    log.setLevel(logging.INFO)
    ask(client, {"inputs": "a secret text", "adapter_id": "acme/intent"})
    ask(client, {"inputs": {"secret": 1}, "adapter_id": "acme/answers"})
    quiet = kept.getvalue().splitlines()
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    service.text_log = TextLog()
    ask(client, {"inputs": "a secret text", "adapter_id": "acme/intent"})
    service.text_log = MaskedTextLog(Recognisers())
    ask(client, {"inputs": ["a secret text", "secret@example.org"], "adapter_id": "acme/intent"})
    assert client.portal is not None
    client.portal.call(service.text_log.drain)
    log.setLevel(before)
    assert [json.loads(line)["status"] for line in quiet] == [200, 422]
    assert "secret" not in "".join(quiet)
    records = map(json.loads, kept.getvalue().splitlines())
    plain, masked = (record["asked"] for record in records if record["message"] == "asked")
    assert plain == [["acme/intent", "a secret text"]]
    assert [text for _, text in masked] == ["a secret text <EMAIL>"]


def test_bodies_of_common_clients_are_accepted(client: TestClient) -> None:
    """Bodies exactly as the clients of huggingface_hub and Triton send them."""
    inputs = {"source_sentence": "a card", "sentences": ["a bank"]}
    body = {"inputs": inputs, "parameters": {"truncate": True, "prompt": None}}
    assert ask(client, body, path="/similarity").status_code == 200
    unknown = {**body, "parameters": {"nonsense": 1}}
    assert ask(client, unknown, path="/similarity").status_code == 422
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a card"]}
    outputs = [{"name": "label", "parameters": {"binary_data": False}}]
    content = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    response = client.post("/v2/models/acme/intent/infer", content=content)
    assert "content-type" not in response.request.headers
    assert [output["name"] for output in response.json()["outputs"]] == ["label"]


def test_requests_of_pages_of_other_sites_are_refused(
    client: TestClient, keyed: TestClient
) -> None:
    foreign, own = {"origin": "https://evil.example"}, {"origin": "http://testserver"}
    path = "/admin/unload/acme/intent"
    assert client.post(path, headers=foreign).status_code == 403
    assert client.post(path, headers=own).status_code == 200
    assert keyed.post(path, headers={**foreign, **bearer(KEYS["ops"])}).status_code == 200


def binary_body(*texts: str, cut: int = 0) -> tuple[bytes, dict[str, str]]:
    raw = [text.encode() for text in texts]
    data = b"".join(len(text).to_bytes(4, "little") + text for text in raw)
    tensor = {
        "name": "text",
        "shape": [len(texts)],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data[: len(data) - cut], {"Inference-Header-Content-Length": str(len(head))}


def test_texts_in_binary_tensors(client: TestClient) -> None:
    path = "/v2/models/acme/intent/infer"
    content, headers = binary_body("a card", "茶 and tea")
    response = client.post(path, content=content, headers=headers)
    assert response.status_code == 200, response.text
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a card", "茶 and tea"]}
    plain = ask(client, {"inputs": [tensor]}, path=path).json()
    assert_close(response.json()["outputs"][2]["data"], plain["outputs"][2]["data"])


@pytest.mark.parametrize("length", ["7", "0", "-3", "x", "999999"])
def test_broken_binary_tensors_are_refused(client: TestClient, length: str) -> None:
    path = "/v2/models/acme/intent/infer"
    content, headers = binary_body("a card")
    broken = client.post(path, content=content, headers={HEADER_LENGTH: length})
    assert (broken.status_code, broken.json()["error_type"]) == (400, "malformed")
    content, headers = binary_body("a card", cut=2)
    assert client.post(path, content=content, headers=headers).status_code == 400
    content, headers = binary_body("a card")
    assert client.post(path, content=content + b"more", headers=headers).status_code == 400


@pytest.mark.parametrize("path", ["/predict", "/v2/models/acme/intent/infer", "/admin/adapters/x"])
def test_a_caller_that_disconnects_is_not_logged_as_an_error(
    store: Store, tiny_folder: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    method = "PUT" if path.startswith("/admin") else "POST"
    lines = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n"
    lines += "content-type: application/x-tar\r\n\r\n{"
    with caplog.at_level(logging.INFO), serving(store.root, tiny_folder) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as caller:
            caller.sendall(lines.encode())
            time.sleep(0.1)
        facts = _logged_facts(caplog, path)
    assert facts["status"] == 400
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def _logged_facts(caplog: pytest.LogCaptureFixture, path: str) -> dict[str, Any]:
    """The keys of the log record of a request; waits until it is written."""
    for _ in range(500):
        for record in caplog.records:
            facts: dict[str, Any] = getattr(record, "facts", {})
            if facts.get("path") == path:
                return facts
        time.sleep(0.01)
    raise AssertionError(f"nothing was logged of {path}")


@pytest.mark.parametrize(("chunk_timeout", "body_timeout"), [(0.05, 60.0), (0.05, 0.12)])
def test_slow_bodies_are_refused(
    monkeypatch: pytest.MonkeyPatch, chunk_timeout: float, body_timeout: float
) -> None:
    monkeypatch.setattr(body_limits, "BODY_SECONDS", body_timeout)
    came: list[int] = []

    async def drip() -> Any:
        await asyncio.sleep(0.03 if len(came) < 3 or body_timeout < 1 else 10.0)
        came.append(1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await receive()

    async def send(message: Any) -> None:
        raise AssertionError("nothing is answered here")

    scope: dict[str, Any] = {"type": "http", "path": "/predict", "method": "POST"}
    scope |= {"headers": [(b"transfer-encoding", b"chunked")], "state": {"caller": EVERYONE}}
    limits = ServingLimits(read_timeout=chunk_timeout)
    with pytest.raises(HTTPException) as error:
        asyncio.run(BodyLimits(app, limits)(scope, drip, send))
    assert error.value.status_code == 408
    assert 2 <= len(came) <= 10
