"""Texts and pairs in a body, the adapter that a request names, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.lanes import WorkerLanes
from adapterkit.inference.predictor import Predictor
from adapterkit.serving.app import make_app
from adapterkit.serving.engine.adapter_cache import AdapterCache
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.metrics.metrics import Metrics
from adapterkit.serving.service import Service
from adapterkit.serving.serving_limits import ServingLimits
from helpers.adapters import MakeAdapter
from helpers.tolerance import assert_close

SINGLE = {"recipe": {"data": {"path": "rows.csv"}}}
PAIRS = {"recipe": {"data": {"path": "rows.csv", "text_pair": "second"}}}

TYPE_NAMES = re.compile(
    r"constrained|valid (string|list|dict|integer)|\bstr\b|\bdict\b|Value error"
)
"""What pydantic's own messages say."""


@pytest.fixture(scope="module")
def adapters(tiny: Backbone, make_adapter: MakeAdapter) -> dict[str, Adapter]:
    """Adapters of single texts, of pairs, and without a recipe, as in a folder of PEFT."""
    ready = [
        replace(make_adapter(tiny, name=name, seed=seed), training=training)
        for seed, (name, training) in enumerate(
            (("acme/single", SINGLE), ("acme/pairs", PAIRS), ("acme/peft", {}))
        )
    ]
    return {adapter.name: adapter for adapter in ready}


@pytest.fixture(scope="module")
def client(
    tiny: Backbone, adapters: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    store = Store(tmp_path_factory.mktemp("shelf"))
    for adapter in adapters.values():
        store.publish(adapter, tiny.geometry)
    metrics = Metrics()
    cache = AdapterCache(store, tiny, 10**9, 0)
    engine = Engine(tiny, 256, 20_000, WorkerLanes(2, 1), metrics)
    metrics.observe(engine, cache)
    service = Service(cache, engine, None, metrics, ServingLimits())
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(tiny: Backbone, adapters: dict[str, Adapter]) -> Predictor:
    return Predictor(tiny, adapters.values())


def labels(predictor: Predictor, name: str, texts: list[Any]) -> list[list[dict[str, Any]]]:
    """Answers in the format of pipelines."""
    return [
        [{"label": label, "score": score} for label, score in answer["scores"].items()]
        for answer in predictor.predict(name, texts)
    ]


def refused(reply: Any, status: int = 422) -> str:
    """The message of an error, which has no type names."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    message: str = error if isinstance(error, str) else error["message"]
    assert not TYPE_NAMES.search(message)
    return message


# Texts and pairs.


@pytest.mark.parametrize("texts", [["a card"], ["a card", "a bank"], ["a card", "a bank", "tea"]])
def test_a_list_for_an_adapter_of_single_texts_is_a_batch(
    client: TestClient, predictor: Predictor, texts: list[str]
) -> None:
    reply = client.post("/predict", json={"adapter_id": "acme/single", "inputs": texts})
    assert_close(reply.json(), labels(predictor, "acme/single", texts))


def test_a_list_for_an_adapter_of_pairs_is_a_pair(client: TestClient, predictor: Predictor) -> None:
    pair = ["a card", "a bank"]
    for name in ("acme/pairs", "acme/peft"):
        expected = labels(predictor, name, [pair])
        reply = client.post("/predict", json={"adapter_id": name, "inputs": pair})
        assert_close(reply.json(), expected[0])
        batch = client.post("/predict", json={"adapter_id": name, "inputs": [pair, pair]})
        assert_close(batch.json(), expected * 2)
    (alone,) = labels(predictor, "acme/peft", ["a card"])
    reply = client.post("/predict", json={"adapter_id": "acme/peft", "inputs": ["a card"]})
    assert_close(reply.json(), alone)


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("pairs", ["a", "b", "c"], "got 3 texts, expected text and text_pair; a batch is a list"),
        ("pairs", ["a"], 'expected text and text_pair; a batch is a list of lists: [["a"], ["b"]]'),
        ("peft", ["a", "b", "c"], "got 3 texts, expected text, and perhaps text_pair; a batch is"),
        ("pairs", "a", "text 1: there is no text_pair; 'acme/pairs' was trained on text and"),
        ("single", [["a", "b"]], "does not read text_pair; give each text as a row of its own"),
        ("single", [["a"], ["b", "c"]], "text 2: 'acme/single' was trained on text alone"),
    ],
)
def test_other_numbers_of_texts_are_refused(
    client: TestClient, name: str, inputs: Any, words: str
) -> None:
    body = {"adapter_id": f"acme/{name}", "inputs": inputs}
    assert words in refused(client.post("/predict", json=body))


def test_models_say_what_they_read(client: TestClient) -> None:
    found = {
        one["id"]: (one["reads"], one["may_read"])
        for one in client.get("/v1/models").json()["data"]
    }
    text, pair = {"text": "text"}, {"text_pair": "text"}
    assert found == {
        "base": (text, pair),
        "acme/pairs": (text | pair, {}),
        "acme/peft": (text, pair),
        "acme/single": (text, {}),
    }
    described = client.get("/v1/models/base").json()
    assert (described["id"], described["reads"]) == ("base", text)


# The adapter of a request.

CHOICES: list[dict[str, Any]] = [
    {"url": "/adapters/acme/single/predict"},
    {"url": "/predict?adapter_id=acme/single"},
    {"url": "/predict?adapter_id=acme%2Fsingle"},
    {"url": "/predict", "headers": {"x-adapter-id": "acme/single"}},
    {"url": "/predict", "json": {"adapter_id": "acme/single"}},
    {"url": "/predict", "json": {"model": "acme/single"}},
    {"url": "/predict?adapter_id=acme/single", "json": {"model": "acme/single"}},
    {"url": "/adapters/acme/single@1/predict"},
]


@pytest.mark.parametrize("request_", CHOICES, ids=lambda one: f"{sorted(one)} {one['url']}")
def test_an_adapter_can_be_named_in_every_way(
    client: TestClient, predictor: Predictor, request_: dict[str, Any]
) -> None:
    body = {"inputs": "a card", **request_.get("json", {})}
    reply = client.post(request_["url"], json=body, headers=request_.get("headers"))
    assert reply.status_code == 200, reply.text
    assert_close(reply.json(), labels(predictor, "acme/single", ["a card"])[0])


@pytest.mark.parametrize(
    ("url", "headers", "more"),
    [
        ("/predict?adapter_id=acme/single", {}, {"adapter_id": "acme/pairs"}),
        ("/predict?adapter_id=acme/single&adapter_id=acme/pairs", {}, {}),
        ("/predict", {"x-adapter-id": "acme/single"}, {"model": "acme/pairs"}),
        ("/adapters/acme/single/predict", {"x-adapter-id": "acme/pairs"}, {}),
        ("/adapters/acme/single/predict?adapter_id=acme/pairs", {}, {}),
    ],
)
def test_two_adapters_in_a_request_are_refused(
    client: TestClient, url: str, headers: dict[str, str], more: dict[str, str]
) -> None:
    reply = client.post(url, json={"inputs": "a", **more}, headers=headers)
    message = refused(reply)
    assert "names two adapters" in message
    assert "acme/single" in message
    assert "acme/pairs" in message


def test_an_empty_name_and_a_default_for_requests_are_refused(client: TestClient) -> None:
    assert "is empty" in refused(client.post("/predict?adapter_id=", json={"inputs": "a"}))
    body = {"requests": [{"inputs": "a"}]}
    reply = client.post("/predict?adapter_id=acme/single", json=body)
    assert "each request names its own adapter_id" in refused(reply)


def test_an_unknown_adapter_is_404_wherever_it_is_named(client: TestClient) -> None:
    for url in ("/adapters/acme/nobody/predict", "/predict?adapter_id=acme/nobody"):
        assert "acme/nobody" in refused(client.post(url, json={"inputs": "a"}), 404)


# Queries.


@pytest.mark.parametrize(
    ("method", "url", "words"),
    [
        ("POST", "/predict?adaptr_id=x", "there is no query key 'adaptr_id'; did you mean 'adap"),
        ("POST", "/embed?model=x", "there is no query key 'model'; valid are: adapter_id"),
        ("POST", "/adapters/acme/single/predict?adapter=x", "did you mean 'adapter_id'?"),
        ("GET", "/v1/models?limt=3", "there is no query key 'limt'; did you mean 'limit'?"),
        ("GET", "/health?x=1", "there is no query key 'x'; this path has no query"),
        ("GET", "/v1/models?limit=many", "limit: expected a whole number"),
        ("GET", "/v1/models?limit=0", "limit: expected at least 1"),
    ],
)
def test_unknown_query_keys_are_refused(
    client: TestClient, method: str, url: str, words: str
) -> None:
    json = {"inputs": "a"} if method == "POST" else None
    assert words in refused(client.request(method, url, json=json))


def test_known_query_keys_are_accepted(client: TestClient) -> None:
    assert client.get("/v1/models?limit=1&after=acme/a&search=acme").status_code == 200
    assert client.get("/?whatever=1").status_code == 200, "a page may be linked with anything"


# What is wrong with a body.


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/predict", {"inputs": ["a", ""]}, "inputs[1]: the text is empty"),
        ("/predict", {"inputs": [["a"], ["b", ""]]}, "inputs[1][1]: the text is empty"),
        ("/predict", {"inputs": ""}, "inputs: the text is empty"),
        ("/predict", {"inputs": ["a", 7]}, "inputs[1]: expected a text"),
        ("/predict", {"inputs": [["a"], "b"]}, "inputs[1]: expected a text, two texts, values"),
        ("/predict", {"inputs": 7}, 'or a batch of those: [["a"], ["b"]]'),
        ("/predict", {"inputs": []}, "inputs: the list is empty; expected a text, two texts"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, "inputs[0]: expected one or two texts, got 3"),
        ("/predict", {"requests": [{"inputs": ["a", ""]}]}, "requests[0].inputs[1]: the text is"),
        ("/predict", {"requests": [{}]}, "requests[0].inputs: is missing"),
        ("/predict", {"requests": {"inputs": "a"}}, "requests: expected a list"),
        ("/predict", {"input": "a"}, "there is no key 'input'; did you mean 'inputs'?"),
        ("/predict", {"inputs": "a", "adaptr_id": "x"}, "'adaptr_id'; did you mean 'adapter_id'?"),
        ("/predict", {"inputs": "a", "truncate": "yes"}, "truncate: expected true or false"),
        ("/predict", {"inputs": "a", "adapter_id": 7}, "adapter_id: expected a text"),
        ("/predict", {"inputs": "a", "top_k": 0}, "top_k: expected at least 1"),
        ("/predict", [1], "the body: expected an object"),
        ("/predict", {}, "give either inputs or requests"),
        ("/predict", {"inputs": "a", "stride": 3}, "stride: the adapter reads long texts as in"),
        ("/embed", {"inputs": ["a", ""]}, "inputs[1]: the text is empty"),
        ("/embed", {"inputs": ["a", " "]}, "text 2: text is empty"),
        ("/embed", {}, "inputs: is missing"),
        ("/similarity", {"inputs": {"source_sentence": "a"}}, "inputs.sentences: is missing"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["b", ""]}},
            "inputs.sentences[1]: the text is empty",
        ),
        ("/v1/embeddings", {"model": "base", "input": ["a", ""]}, "input[1]: the text is empty"),
        (
            "/v1/embeddings",
            {"input": "a", "encoding_format": "hex"},
            "encoding_format: expected 'float' or 'base64'",
        ),
        ("/embed_all", {"inputs": ["a", ""]}, "inputs[1]: the text is empty"),
        ("/embed_all", {"inputs": "a", "model": "acme/single"}, "'acme/single' gives no vectors"),
        ("/tokenize", {"inputs": []}, "inputs: the list is empty"),
        ("/tokenize", {"inputs": "a", "prompt_name": "query"}, "an adapter has no prompts"),
        ("/decode", {"ids": []}, "ids: expected a list of token ids, or a list of such lists"),
        ("/decode", {"ids": [3, "4"]}, "ids[1]: expected a token id, a whole number from 0"),
        ("/decode", {"ids": [[3], [-1]]}, "ids[1][0]: expected a token id"),
        ("/decode", {"ids": [[3], []]}, "ids[1]: expected a list of token ids"),
        ("/decode", {"ids": [[3], [9_999_999]]}, "ids: list 2 has 9999999, but the tokenizer of"),
        ("/invocations", {}, "give either inputs or requests"),
        ("/invocations", {"inputs": "a", "top_k": 2}, "there is no key 'top_k'"),
        (
            "/invocations",
            {"inputs": "a", "model": "acme/single", "normalize": True},
            "normalize: 'acme/single' gives no vectors",
        ),
        ("/v2/models/base/infer", {}, "inputs: is missing"),
        (
            "/v2/models/base/infer",
            {"inputs": [{"name": "x", "shape": "1", "data": []}]},
            "inputs[0].shape: expected a list",
        ),
    ],
)
def test_a_wrong_body_is_described_without_type_names(
    client: TestClient, path: str, body: Any, message: str
) -> None:
    assert message in refused(client.post(path, json=body))


# HEAD.


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/info", "/v1/models", "/v1/models/base", "/v2", "/metrics"]
)
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert client.head("/nothing").status_code == 404
    assert client.head("/predict").status_code == 405


# Descriptions.


def test_the_page_of_the_description_needs_no_other_site(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    assert not re.search(r"(src|href)=.?https?:", page.text)
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page.text
    assert "adapter_id" in page.text
    assert "$ref" not in page.text
    assert client.head("/docs").status_code == 200


@pytest.mark.parametrize(
    ("name", "roles", "outputs"),
    [
        ("base", ["text"], ["answer", "vector"]),
        ("acme/single", ["text"], ["answer", "label", "score"]),
        ("acme/pairs", ["text", "text_pair"], ["answer", "label", "score"]),
    ],
)
def test_open_inference_describes_inputs_and_outputs(
    client: TestClient, name: str, roles: list[str], outputs: list[str]
) -> None:
    about = client.get(f"/v2/models/{name}").json()
    assert [tensor["name"] for tensor in about["inputs"]] == roles
    assert client.get(f"/v2/models/{name}/ready").json()["ready"]
    tensors = [
        {"name": role, "shape": [2], "datatype": "BYTES", "data": ["a card", "tea"]}
        for role in roles
    ]
    found = client.post(f"/v2/models/{name}/infer", json={"inputs": tensors}).json()["outputs"]
    assert [tensor["name"] for tensor in about["outputs"]] == outputs
    assert {one["name"]: one["datatype"] for one in found} == {
        one["name"]: one["datatype"] for one in about["outputs"]
    }
    assert [len(one["shape"]) for one in found] == [len(one["shape"]) for one in about["outputs"]]


def test_errors_in_the_format_of_openai(client: TestClient) -> None:
    for path in ("/v1/embeddings", "/adapters/acme/single/v1/embeddings"):
        for body in ({"input": ""}, {"input": "a", "model": "acme/no"}):
            reply = client.post(path, json=body)
            assert reply.status_code in (404, 422)
            assert set(reply.json()["error"]) == {"message", "type"}
            assert reply.json()["error"]["type"] == reply.json()["error_type"]
