"""Several backbones in one server: each adapter is answered over the one it was trained on."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.checksums import with_checksums
from adapterkit.adapter.folder import adapter_files
from adapterkit.adapter.store import Store
from adapterkit.backbone.checkpoint import locate
from adapterkit.backbone.model import Backbone
from adapterkit.bench.clients import checked_requests, closed_loop
from adapterkit.bench.population import Population, same_answer, without_adapter
from adapterkit.client.tar import as_tar
from adapterkit.inference.backbones import Backbones
from adapterkit.inference.lanes import WorkerLanes
from adapterkit.inference.predictor import Predictor
from adapterkit.serving.app import make_app
from adapterkit.serving.engine.adapter_cache import AdapterCache
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.metrics.metrics import Metrics
from adapterkit.serving.service import Service
from adapterkit.serving.serving_limits import ServingLimits
from helpers import modernbert
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command
from helpers.server import serving

TEXTS = ["i lost my card", "the rain", "where is my money in the bank"]
TAR = {"content-type": "application/x-tar"}


@pytest.fixture(scope="module")
def modern_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbones") / "modern"
    return modernbert.save_random_modernbert(path, tiny_folder)


@pytest.fixture(scope="module")
def modern(modern_folder: Path) -> Backbone:
    return Backbone.load(str(modern_folder), device="cpu")


@pytest.fixture(scope="module")
def adapters(tiny: Backbone, modern: Backbone, make_adapter: MakeAdapter) -> list[Adapter]:
    """Two adapters of each backbone, and one of a backbone that no test loads."""
    lost = make_adapter(tiny, name="acme/lost")
    return [
        make_adapter(tiny, name="acme/intent", seed=1),
        make_adapter(modern, name="acme/topic", seed=2, labels=("x", "y", "z")),
        make_adapter(tiny, "prefix", name="globex/mood", seed=3),
        make_adapter(modern, "bottleneck", name="globex/urgent", seed=4),
        replace(lost, backbone="lost/model", fingerprint="sha256:" + "ab" * 32),
    ]


@pytest.fixture
def store(tiny: Backbone, modern: Backbone, adapters: list[Adapter], tmp_path: Path) -> Store:
    store, known = Store(tmp_path / "shelf"), Backbones([tiny, modern])
    for adapter in adapters:
        store.publish(adapter, known.for_adapter(adapter).geometry)
    return store


def app_of(store: Store, *backbones: Backbone, any_backbone: bool = False) -> TestClient:
    metrics, known = Metrics(), Backbones(backbones)
    cache = AdapterCache(store, known, 10**9, 0, any_backbone=any_backbone)
    engine = Engine(known, 256, 20_000, WorkerLanes(2, 1), metrics)
    metrics.observe(engine, cache)
    service = Service(cache, engine, None, metrics, ServingLimits())
    return TestClient(make_app(service), raise_server_exceptions=False)


@pytest.fixture
def client(store: Store, tiny: Backbone, modern: Backbone) -> Iterator[TestClient]:
    with app_of(store, tiny, modern) as client:
        yield client


def asked(client: TestClient, rows: list[tuple[str, str]]) -> Any:
    requests = [{"adapter_id": name, "inputs": text} for name, text in rows]
    return client.post("/predict", json={"requests": requests})


@pytest.mark.parametrize("repeat", [1, 40])  # tokenised at once, and by the pool
def test_rows_of_both_backbones_are_answered_as_each_adapter_alone(
    client: TestClient, tiny: Backbone, modern: Backbone, adapters: list[Adapter], repeat: int
) -> None:
    names = [adapter.name for adapter in adapters[:4]]
    homes = dict(zip(names, [tiny, modern] * 2, strict=True))
    rows = [(name, text * repeat) for text in TEXTS for name in ("base", *homes)]
    response = asked(client, rows)
    assert response.status_code == 200, response.text
    by_name = {adapter.name: adapter for adapter in adapters}
    for (name, text), answer in zip(rows, response.json(), strict=True):
        known = [by_name[name]] if name in homes else []
        (alone,) = Predictor(homes.get(name, tiny), known).predict(name, [text])
        assert answer["adapter_id"] == name
        expected = without_adapter(json.loads(json.dumps(alone)))
        assert same_answer(without_adapter(answer), expected)


def test_a_predictor_answers_over_the_backbone_of_each_adapter(
    tiny: Backbone, modern: Backbone, adapters: list[Adapter]
) -> None:
    homes = list(zip(adapters[:4], [tiny, modern] * 2, strict=True))
    both = Predictor(Backbones([tiny, modern]), adapters[:4])
    rows = [(adapter.name, text) for text in TEXTS for adapter, _ in homes]
    answers = both(rows)
    alone = [
        Predictor(home, [adapter]).predict(adapter.name, [text])[0]
        for text in TEXTS
        for adapter, home in homes
    ]
    assert all(map(same_answer, answers, alone))
    assert [answer["adapter"] for answer in answers] == [name for name, _ in rows]
    names = [f"row {number}" for number in range(1, 4)]
    found = both.answer_each([rows[0], (rows[1][0], " "), rows[3]], names)
    assert [isinstance(one, Exception) for one in found] == [False, True, False]
    assert str(found[1]).startswith("row 2")
    vector = both.predict(None, TEXTS[:1])[0]["vector"]
    assert vector == Predictor(tiny).predict(None, TEXTS[:1])[0]["vector"], "base is the first"


def test_an_adapter_whose_backbone_is_not_loaded_is_refused_by_name(client: TestClient) -> None:
    refused = asked(client, [("acme/intent", "rain"), ("acme/lost", "rain")])
    assert refused.status_code == 409
    assert refused.json()["error_type"] == "backbone_not_loaded"
    message = refused.json()["error"]
    assert message.startswith("'acme/lost' was trained on 'lost/model' (sha256:abababababab)")
    assert "--backbone lost/model" in message
    assert asked(client, [("acme/intent", "rain")]).status_code == 200
    vectors = client.post("/v1/embeddings", json={"model": "acme/lost", "input": "rain"})
    assert (vectors.status_code, vectors.json()["error"]["message"]) == (409, message)
    ready = [client.get(f"/v2/models/{name}/ready") for name in ("acme/lost", "acme/topic")]
    assert [one.status_code for one in ready] == [409, 200]


def test_a_server_of_one_backbone_refuses_the_adapters_of_another(
    store: Store, modern: Backbone
) -> None:
    with app_of(store, modern) as client:
        statuses = [asked(client, [(name, "rain")]).status_code for name in store.names()]
    assert dict(zip(store.names(), statuses, strict=True)) == {
        "acme/intent": 409,
        "acme/lost": 409,
        "acme/topic": 200,
        "globex/mood": 409,
        "globex/urgent": 200,
    }


def test_any_backbone_takes_the_first_for_unknown_weights(
    store: Store, tiny: Backbone, modern: Backbone
) -> None:
    with app_of(store, tiny, modern, any_backbone=True) as client:
        response = asked(client, [("acme/lost", "rain"), ("acme/topic", "rain")])
        listed = client.get("/v1/models/acme/lost").json()
    assert response.status_code == 200
    assert listed["backbone"]["name"] == tiny.name


def test_lists_and_figures_name_the_backbone_of_each(
    client: TestClient, tiny: Backbone, modern: Backbone
) -> None:
    models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    loaded = {
        one: {"name": one.name, "fingerprint": one.fingerprint, "loaded": True}
        for one in (tiny, modern)
    }
    assert models["base"]["backbone"] == models["acme/intent"]["backbone"] == loaded[tiny]
    assert models["globex/urgent"]["backbone"] == loaded[modern]
    assert models["globex/urgent"]["parent"] == modern.name
    lost = {"name": "lost/model", "fingerprint": "sha256:" + "ab" * 32, "loaded": False}
    assert models["acme/lost"]["backbone"] == lost
    info = client.get("/info").json()
    assert info["model_id"] == tiny.name
    sizes = {one["name"]: one["bytes"] for one in info["backbones"]}
    assert sizes == {one.name: 4 * one.n_parameters for one in (tiny, modern)}
    metrics = client.get("/metrics").text
    for name, size in sizes.items():
        (line,) = (line for line in metrics.splitlines() if f'backbone="{name}"' in line)
        assert line.startswith("adapterkit_backbone_bytes")
        assert float(line.split()[-1]) == size


def test_an_upload_is_checked_against_the_backbone_that_its_card_names(
    client: TestClient, tiny: Backbone, modern: Backbone, adapters: list[Adapter]
) -> None:
    homes = [tiny, modern, tiny, modern, tiny]
    statuses = {}
    for number, (adapter, home) in enumerate(zip(adapters, homes, strict=True)):
        sent = as_tar(with_checksums(adapter_files(adapter, home.geometry)))
        response = client.put(f"/admin/adapters/new/{number}", content=sent, headers=TAR)
        statuses[adapter.name] = response.status_code
    assert list(statuses.values()) == [201, 201, 201, 201, 422]
    assert "lost/model" in response.json()["error"]
    assert asked(client, [("new/0", "rain"), ("new/1", "rain")]).status_code == 200


def test_one_backbone_given_twice_is_refused(tiny_folder: Path, store: Store) -> None:
    backbone = ["--backbone", str(tiny_folder)]
    result = run_command("serve", str(store.root), *backbone, *backbone, "--port", "0")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "have the same weights; give one of them" in result.err


@pytest.mark.slow
def test_no_answer_is_wrong_under_load(minilm: Backbone, tmp_path: Path) -> None:
    """A hundred adapters each of MiniLM and of a random ModernBERT, in the same requests."""
    shape = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 6}
    folder = modernbert.save_random_modernbert(tmp_path / "modern", locate("minilm"), **shape)
    expected: dict[str, list[Any]] = {}
    shelf = Store(tmp_path / "shelf")
    for tenant, backbone in (("m", minilm), ("n", Backbone.load(str(folder), device="cpu"))):
        population = Population(backbone, tmp_path / tenant)
        _, adapters = population.mixed_store(100)
        named = [replace(one, name=f"{tenant}{one.name}") for one in adapters]
        for adapter in named:
            shelf.publish(adapter, backbone.geometry)
        expected |= population.expected_answers(named)
    names = list(expected)
    random.Random(0).shuffle(names)
    texts, mixed = population.texts, {name: expected[name] for name in names}
    with serving(shelf.root, "minilm", folder, lanes=2) as url:
        load = asyncio.run(closed_loop(url, 16, 20.0, checked_requests(texts, mixed, 8)))
    assert (load.wrong, load.n_errors) == (0, 0), load.summary()
    assert load.n_requests > 50
