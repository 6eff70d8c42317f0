"""Requests that are made from the server's own description, valid and invalid ones."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.serving.keys.api_keys import hash_key
from helpers.adapters import MakeAdapter
from helpers.server import serving
from helpers.task_adapters import random_task_adapter

NOT_CHECKED = [
    ignored_auth,  # repeats a request without its key, but with the headers that are given here
    positive_data_acceptance,  # the description has no rules between fields (status 422)
]


@pytest.fixture(scope="module")
def folder(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a store, whose adapter has two versions and a plot."""
    folder = tmp_path_factory.mktemp("fuzz")
    store = Store(folder / "store")
    adapter = make_adapter(tiny, "lora", name="acme/intent", seed=1)
    numbers = {"split": "test", "numbers": [[1.0, 1.2], [2.0, 1.9]]}
    training = {"rows": {"test": 2}, "report": numbers}
    adapter = replace(adapter, metrics={"test": {"accuracy": 0.5}}, training=training)
    for _ in range(2):
        store.publish(adapter, tiny.geometry)
    names = replace(random_task_adapter(tiny, "tagging", folder), name="acme/names")
    store.publish(names, tiny.geometry)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path, tiny_folder: Path) -> Iterator[str]:
    store = Store(folder / "store")
    keys = {"ops": {"key": hash_key("ak-ops"), "adapters": ["*"], "admin": True}}
    (folder / "keys.yaml").write_text(json.dumps(keys))
    with serving(store.root, tiny_folder, keys=folder / "keys.yaml") as url:
        yield url


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("n_requests", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_every_answer_is_as_described(
    url: str,
    mode: GenerationMode,
    n_requests: int,
    scale: float,
    report: Callable[[str], None],
) -> None:
    """Schemathesis checks the status, the content type and the body of each answer, and that
    invalid requests are refused."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    rejection = schema.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "414"]  # a text in the query
    n_operations, statuses = 0, Counter[int]()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()

        @settings(
            max_examples=round(n_requests * scale),
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case[Any]) -> None:
            assume(is_written(case.query))
            key = {"authorization": "Bearer ak-ops"}
            response = case.call_and_validate(headers=key, excluded_checks=NOT_CHECKED)
            statuses[response.status_code] += 1

        try:
            check()
        except Unsatisfiable:  # without parameters and body, no request is invalid
            assert mode is GenerationMode.NEGATIVE
        else:
            n_operations += 1
    assert n_operations >= 15
    report(f"{statuses.total()} {mode.value} requests by status: {dict(sorted(statuses.items()))}")


def is_written(query: Mapping[str, Any]) -> bool:
    """Whether a URL has all keys of a query. Without those that `requests` leaves out, an invalid
    query may be a valid one."""
    url = requests.Request("GET", "http://localhost", params=query).prepare().url
    return set(query) <= set(parse_qs(urlsplit(str(url)).query, keep_blank_values=True))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, False), ([], False), ([None, []], False), ("", True), ([""], True), (0, True)],
)
def test_a_query_with_a_key_that_has_no_value_is_not_written(value: Any, expected: bool) -> None:
    assert is_written({"after": "", "ä&": value}) == expected


INPUTS = {"inputs": "my card is lost"}
ROWS = {"requests": [{"adapter_id": "acme/intent", **INPUTS}, INPUTS], "one_line": True}
TENSORS = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["my card"]}]}
SENTENCES = {"source_sentence": "my card", "sentences": ["the rain", "a card"]}
QUERY = {"query": "my card", "texts": ["the rain", "a card"], "return_text": True}
INTENT, BASE = {"name": "acme/intent"}, {"name": "base"}
STABLE = {"alias": "stable", "name": "acme/intent"}
CANARY = {"weights": {"1": 9, "2": 1}, "shadow": 2, "rule": {"rows": 9, "agreement": 0.5}}

VALID_REQUESTS: list[tuple[str, dict[str, str], Any]] = [
    ("POST /predict", {}, ROWS),
    ("POST /predict", {}, {"adapter_id": "acme/intent", "inputs": [["my card"], ["the rain"]]}),
    ("POST /predict", {}, {"adapter_id": "acme/names", **INPUTS}),
    ("POST /adapters/{name}/predict", INTENT, INPUTS),
    ("POST /embed", {}, INPUTS),
    ("POST /adapters/{name}/embed", BASE, INPUTS),
    ("POST /v1/embeddings", {}, {"input": ["my card"], "model": "base"}),
    ("POST /v1/embeddings", {}, {"input": "my card", "encoding_format": "base64"}),
    ("POST /adapters/{name}/v1/embeddings", BASE, {"input": "my card"}),
    ("POST /similarity", {}, {"inputs": SENTENCES}),
    ("POST /adapters/{name}/similarity", BASE, {"inputs": SENTENCES}),
    ("POST /rerank", {}, QUERY),
    ("POST /adapters/{name}/rerank", BASE, {**QUERY, "return_text": False}),
    ("POST /embed_all", {}, INPUTS),
    ("POST /adapters/{name}/embed_all", BASE, {"inputs": ["my card", "the rain"]}),
    ("POST /tokenize", {}, INPUTS),
    ("POST /adapters/{name}/tokenize", INTENT, {**INPUTS, "add_special_tokens": False}),
    ("POST /decode", {}, {"ids": [3, 4]}),
    ("POST /adapters/{name}/decode", INTENT, {"ids": [[3], [4]], "skip_special_tokens": False}),
    ("POST /invocations", {}, INPUTS),
    ("POST /invocations", {}, {"adapter_id": "acme/intent", **INPUTS, "parameters": {"top_k": 1}}),
    ("GET /ping", {}, None),
    ("GET /v1/models", {}, None),
    ("GET /v1/models/{name}", INTENT, None),
    ("GET /v1/models/{name}", BASE, None),
    ("GET /v1/cards/{name}", INTENT, None),
    ("GET /v1/cards/{name}/report/{file}", {**INTENT, "file": "scatter.png"}, None),
    ("GET /v1/activity", {}, None),
    ("GET /info", {}, None),
    ("GET /health", {}, None),
    ("GET /ready", {}, None),
    ("GET /metrics", {}, None),
    ("GET /v2", {}, None),
    ("GET /v2/health/live", {}, None),
    ("GET /v2/health/ready", {}, None),
    ("POST /v2/models/{name}/infer", INTENT, {**TENSORS, "id": "one"}),
    ("POST /v2/models/{name}/infer", BASE, TENSORS),
    ("POST /v2/models/{name}/versions/{version}/infer", {**INTENT, "version": "1"}, TENSORS),
    ("GET /v2/models/{name}/ready", INTENT, None),
    ("GET /v2/models/{name}/versions/{version}/ready", {**INTENT, "version": "1"}, None),
    ("GET /v2/models/{name}", INTENT, None),
    ("GET /v2/models/{name}/versions/{version}", {**INTENT, "version": "latest"}, None),
    ("GET /admin/adapters/{name}", INTENT, None),
    ("PUT /admin/adapters/{name}", {"name": "acme/copy"}, "the folder"),
    ("PUT /admin/aliases/{alias}/{name}", STABLE, {"version": 1}),
    ("PUT /admin/rollouts/{alias}/{name}", STABLE, CANARY),
    ("GET /v1/models/{name}", INTENT, None),
    ("POST /admin/promote/{alias}/{name}", STABLE, None),
    ("DELETE /admin/aliases/{alias}/{name}", STABLE, None),
    ("GET /admin/verify/{name}", INTENT, None),
    ("GET /admin/drift/{name}", INTENT, None),
    ("POST /admin/unload/{name}", INTENT, None),
    ("POST /admin/rollback/{name}", INTENT, None),
    ("DELETE /admin/adapters/{name}", {"name": "acme/copy"}, None),
]
"""Route, path parameters and body of requests that succeed, in this order."""


def test_successful_answers_are_as_described(url: str, folder: Path) -> None:
    """A real request to each route; a key that is not described fails as well as a missing one."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    results = [result for result in schema.get_all_operations() if isinstance(result, Ok)]
    operations = {result.ok().label: result.ok() for result in results}
    upload = io.BytesIO()
    with tarfile.open(fileobj=upload, mode="w") as archive:
        archive.add(folder / "store/acme/intent/1", ".")
    for label, parameters, body in VALID_REQUESTS:
        method, path = label.split(" ", 1)
        content: dict[str, Any] = {} if body is None else {"json": body}
        headers = {"authorization": "Bearer ak-ops"}
        if body == "the folder":
            content = {"data": upload.getvalue()}
            headers["content-type"] = "application/x-tar"
        response = requests.request(
            method, url + path.format(**parameters), headers=headers, timeout=30, **content
        )
        assert response.ok, (label, response.text)
        operations[label].validate_response(response)
    assert {label for label, _, _ in VALID_REQUESTS} == set(operations)


def test_every_answer_has_a_schema(url: str) -> None:
    schema = requests.get(f"{url}/openapi.json", timeout=30).json()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                for media in response["content"].values():
                    assert media["schema"], (method, path, status)
