"""Time and memory of every task and every route grow no faster than the input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import adapter_files
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.client.tar import as_tar
from adapterkit.inference.predictor import Predictor
from adapterkit.tasks.base import tasks
from helpers.adapters import MakeAdapter
from helpers.growth import FACTORS, MOST, Growth, growth_table
from helpers.server import serving
from helpers.task_adapters import random_task_adapter, request_row

TEXT_CHARACTERS = 20_000
BODY_BYTES = 240_000
"""Eight times as much is just less than the limit of a body."""

INFER = "/v2/models/acme/intent/infer"
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a card"]}
JSON = "application/json"


def check(rows: list[Growth], report: Callable[[str], None]) -> None:
    report(growth_table(rows))
    assert [row.work for row in rows if max(row.exponents) > MOST] == []


@pytest.mark.parametrize(
    "seconds",
    [
        lambda n: n**2,
        lambda n: n * math.log(n) ** 2,
        lambda n: BODY_BYTES + n**2 / BODY_BYTES,  # beside a constant cost
    ],
)
def test_work_that_grows_faster_than_its_input_is_found(seconds: Callable[[int], float]) -> None:
    sizes = [BODY_BYTES * factor for factor in FACTORS]
    linear = tuple(map(float, sizes))
    found = Growth("planted", tuple(map(seconds, sizes)), linear)
    assert found.exponents[0] > MOST > found.exponents[1]


def test_memory_that_grows_faster_than_its_input_is_found() -> None:
    sizes = [100 * factor for factor in FACTORS]
    found = Growth.of("planted", lambda n: [bytes(n) for _ in range(n)], sizes)
    assert found.exponents[1] > MOST


# Tasks, offline.


def long_rows(adapter: Adapter) -> dict[str, list[Any]]:
    """Requests of growing sizes to an adapter, by what grows."""
    length = len(json.dumps(request_row(adapter)))
    rows = {"text": [request_row(adapter, times=TEXT_CHARACTERS * f // length) for f in FACTORS]}
    if "choices" in rows["text"][0]:
        text = "my card " * 200
        rows["choices"] = [
            {"text": text, "choices": [f"choice {n}" for n in range(30 * f)]} for f in FACTORS
        ]
        rows["text beside 30 choices"] = [
            {"text": "my card " * 250 * f, "choices": [str(n) for n in range(30)]} for f in FACTORS
        ]
    if "sentences" in rows["text"][0]:
        rows["dots"] = [{"sentences": "." * TEXT_CHARACTERS * f} for f in FACTORS]
        rows["text"] = [
            {"sentences": "The tea is hot. Open it! " * (TEXT_CHARACTERS * f // 25)}
            for f in FACTORS
        ]
    if adapter.task.type == "masked_language_modelling":
        rows["text"] = [{"text": "my card is lost. " * 1200 * f + "[MASK]"} for f in FACTORS]
        rows["masks"] = [{"text": "[MASK] my card " * 60 * f} for f in FACTORS]
    return rows


@pytest.mark.slow
def test_every_task(tiny: Backbone, tmp_path: Path, report: Callable[[str], None]) -> None:
    rows = []
    for kind in sorted(tasks()):
        adapter = random_task_adapter(tiny, kind, tmp_path)
        predictor = Predictor(tiny, [adapter])
        for what, requests in long_rows(adapter).items():

            def ask(request: Any, name: str = adapter.name) -> object:
                return predictor([(name, request)])  # noqa: B023, used before the next one

            rows.append(Growth.of(f"{kind}: {what}", ask, requests))
    check(rows, report)


# Routes.


def words(n: int) -> Any:
    return {"adapter_id": "acme/intent", "inputs": "card " * (n // 5)}


def texts(n: int) -> Any:
    return {"inputs": ["card " * 150] * (n // 760)}


def letters(n: int) -> Any:
    return {"inputs": ["a"] * (n // 5)}


def tensors(n: int) -> Any:
    return {"inputs": [TENSOR] * (n // 80)}


def shape(n: int) -> Any:
    return {"inputs": [{**TENSOR, "shape": [10**15] * (n // 18)}]}


def packed_rows(n: int) -> Any:
    return {"inputs": [{**TENSOR, "shape": [n // 6], "data": ["{}"] * (n // 6)}]}


def packed_lists(n: int) -> Any:
    return {"inputs": [{**TENSOR, "data": [json.dumps({"text": [[]] * (n // 4)})]}]}


def token_ids(n: int) -> Any:
    return {"ids": [7] * (n // 20)}


def outputs(n: int) -> Any:
    return {"inputs": [TENSOR], "outputs": [{"name": "label"}] * (n // 20)}


def wrong_rows(n: int) -> Any:
    return {"inputs": [[[]]] * (n // 6)}


def unknown_keys(n: int) -> Any:
    return {f"key{i:06d}": 1 for i in range(n // 16)}


def nested(n: int) -> bytes:
    return b'{"inputs": ' + b"[" * (n // 2) + b"]" * (n // 2) + b"}"


def binary(n: int) -> bytes:
    return b'{"inputs": []}' + b"\1\0\0\0a" * (n // 5)


BODIES = (words, texts, letters, tensors, shape, outputs, wrong_rows, unknown_keys, nested)
PATHS = (
    "/predict",
    "/adapters/acme/intent/predict",
    "/embed",
    "/similarity",
    "/rerank",
    "/v1/embeddings",
    "/embed_all",
    "/tokenize",
    "/invocations",
    INFER,
)


@pytest.fixture(scope="module")
def port(
    tiny: Backbone,
    make_adapter: MakeAdapter,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    store = Store(tmp_path_factory.mktemp("growth") / "store")
    store.publish(make_adapter(tiny, "lora", name="acme/intent", seed=1), tiny.geometry)
    with serving(store.root, tiny_folder) as url:
        yield int(url.rpartition(":")[2])


def send(port: int, path: str, body: bytes, method: str = "POST", **headers: str) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    fields = {"content-type": JSON, **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection.request(method, path, body, fields)
    connection.getresponse().read()
    connection.close()


def sized(make: Callable[[int], Any]) -> list[bytes]:
    """Bodies of growing sizes."""
    contents = [make(BODY_BYTES * factor) for factor in FACTORS]
    return [one if isinstance(one, bytes) else json.dumps(one).encode() for one in contents]


@pytest.mark.slow
def test_every_route_with_a_body(port: int, report: Callable[[str], None]) -> None:
    rows = [
        Growth.of(f"{path} {make.__name__}", partial(send, port, path), sized(make))
        for path in PATHS
        for make in BODIES
    ]
    rows += [
        Growth.of(f"{INFER} {make.__name__}", partial(send, port, INFER), sized(make))
        for make in (packed_rows, packed_lists)
    ]
    rows.append(Growth.of("/decode token_ids", partial(send, port, "/decode"), sized(token_ids)))
    send_binary = partial(send, port, INFER, inference_header_content_length="14")
    rows.append(Growth.of(f"{INFER} binary", send_binary, sized(binary)))
    check(rows, report)


@pytest.mark.slow
def test_publishing(
    port: int, tiny: Backbone, make_adapter: MakeAdapter, report: Callable[[str], None]
) -> None:
    files = adapter_files(make_adapter(tiny, name="acme/large"), tiny.geometry)

    def archive(n: int) -> bytes:
        return as_tar({**files, "README.md": b"a" * 4 * n})

    path, tar = "/admin/adapters/acme/large", "application/x-tar"
    publish = partial(send, port, path, method="PUT", content_type=tar)
    check([Growth.of("PUT /admin/adapters", publish, sized(archive))], report)
