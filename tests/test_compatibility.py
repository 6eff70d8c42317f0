"""Files written by earlier versions load, and the adapters in them answer as they did then."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from safetensors.torch import load_file

from adapterkit import Adapter, Backbone, Predictor, Recipe, Store
from adapterkit.tasks.base import column_roles
from adapterkit.tasks.pooled import PooledTask
from helpers.command_line import run_command
from helpers.paths import ROOT

FOLDER = ROOT / "tests" / "fixtures" / "version_0_1_0"
STORE = ("--store", FOLDER / "store")
RECIPES: dict[str, Any] = json.loads((FOLDER / "recipes.json").read_text(encoding="utf-8"))
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
ADAPTERS: dict[str, Any] = EXPECTED["adapters"]

TOLERANCE = 1e-5
"""Largest difference of two numbers that were computed in different environments."""


def environment() -> dict[str, str]:
    """What the last bits of an answer depend on besides our code.

    `probe` is the digest of plain torch operations: libraries choose their kernels by more than
    the instruction set.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((40, 32), (64, 32)))
    y = torch.nn.functional.gelu(torch.nn.functional.linear(x, weight)).softmax(-1)
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "probe": sha256(y.numpy().tobytes()).hexdigest(),
    }


def same(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether two answers have the same keys, texts and order, and numbers within a tolerance."""
    if isinstance(expected, dict):
        keys = isinstance(found, dict) and list(found) == list(expected)
        return keys and all(same(found[key], expected[key], tolerance) for key in expected)
    if isinstance(expected, list):
        length = isinstance(found, list | tuple) and len(found) == len(expected)
        return length and all(map(same, found, expected, [tolerance] * len(expected)))
    if isinstance(expected, float):
        return isinstance(found, float) and abs(found - expected) <= tolerance
    return type(found) is type(expected) and bool(found == expected)


def check_answers(found: list[Any], expected: list[Any], tolerance: float) -> None:
    assert len(found) == len(expected)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        assert same(ours, theirs, tolerance), f"answer {number}: {ours} differs from {theirs}"


def card_of(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "adapterkit.json").read_text(encoding="utf-8"))
    return card


def fields(section: Any, names: set[str]) -> dict[str, Any]:
    """Some fields of a section, as JSON has them."""
    found: dict[str, Any] = json.loads(json.dumps({name: getattr(section, name) for name in names}))
    return found


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The fixture's backbone, with its linears as torch computes them."""
    return Backbone.load(str(FOLDER / "backbone"), device="cpu", prepared=False)


@pytest.fixture(scope="module")
def store() -> Store:
    return Store(FOLDER / "store")


@pytest.fixture(scope="module")
def tolerance() -> float:
    """0 where the recorded environment is this one, else `TOLERANCE`."""
    return 0.0 if environment() == EXPECTED["environment"] else TOLERANCE


@pytest.fixture(params=list(ADAPTERS))
def reference(request: pytest.FixtureRequest) -> str:
    """`name@version` of each adapter of the store."""
    return str(request.param)


@pytest.fixture
def predictor(backbone: Backbone, store: Store, reference: str) -> Predictor:
    """One that holds only the adapter of `reference`."""
    predictor = Predictor(backbone)
    assert predictor.load(store.path(reference)) == reference.partition("@")[0]
    return predictor


@pytest.fixture
def adapter(predictor: Predictor) -> Adapter:
    found = predictor.find(*predictor.names)
    assert found is not None
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_parsed_as_before(name: str) -> None:
    found = Recipe.load(FOLDER / "recipes" / f"{name}.yaml")
    if found.training.epochs is None:  # was always 3; now it follows from the number of rows
        found = replace(found, training=replace(found.training, epochs=3))
    assert Recipe.of(RECIPES[name]) == found
    written = json.loads(json.dumps(found.plain()))
    # Version 0.1.0 wrote the columns of all tasks, also of those that the recipe is not about.
    others = column_roles().keys() - found.task.columns.keys() - found.data.columns.keys()
    before = {key: value for key, value in RECIPES[name]["data"].items() if key not in others}
    since = {"separator": None, "quoting": None, "encoding": "utf-8"}
    range_of_numbers = {"minimum": None, "maximum": None}
    task_since: dict[str, Any] = range_of_numbers if found.task.type == "regression" else {}
    if isinstance(found.task, PooledTask):
        task_since = {**task_since, "hidden_activation": None, "hidden_norm_eps": None}
    if found.task.type == "question_answering":
        task_since = {**task_since, "pair_token_types": True}
    method_since: dict[str, Any] = {}
    if found.method.type == "lora":
        method_since = {"init_lora_weights": "default"}
    if found.method.type == "prefix":
        method_since = {"shift_positions": True}
    assert written == {
        **RECIPES[name],
        "method": {**RECIPES[name]["method"], **method_since},
        "backbone": {**RECIPES[name]["backbone"], "device_map": None},
        "data": {**before, **since},
        "task": {**RECIPES[name]["task"], **task_since},
        "training": {
            **RECIPES[name]["training"],
            "max_tokens": None,
            "gradient_checkpointing": False,
            "checkpoint": {"minutes": 10.0, "steps": None},
            "timeout": 120,
            "log_steps": 10,
            "trackers": [],
            "project": "adapterkit",
        },
    }


def test_the_store_holds_what_was_published(store: Store) -> None:
    names = store.names()
    assert {name: list(store.versions(name)) for name in names} == EXPECTED["store"]
    assert {reference: store.find(reference).digest for reference in ADAPTERS} == {
        reference: expected["digest"] for reference, expected in ADAPTERS.items()
    }
    assert [store.verify(reference) for reference in ADAPTERS] == [[]] * len(ADAPTERS)
    assert store.find("acme/intent@stable").number == 1


def test_the_fixtures_cover_every_method_and_task(store: Store) -> None:
    cards = [card_of(store.path(reference)) for reference in ADAPTERS]
    assert len({card["method"]["type"] for card in cards}) == 4
    assert len({card["task"]["type"] for card in cards}) == 10


def test_a_card_is_read_as_before(store: Store, reference: str, adapter: Adapter) -> None:
    card = card_of(store.path(reference))
    for section, name in ((adapter.method, "method"), (adapter.task, "task")):
        assert fields(section, set(card[name])) == card[name]
    names = {"name", "fingerprint", "lower_case", "metrics"}
    expected = {**card["backbone"], "name": card["name"], "metrics": card["metrics"]}
    assert fields(adapter, names) == {name: expected[name] for name in names}
    assert adapter.backbone == card["backbone"]["name"]
    assert adapter.digest == ADAPTERS[reference]["weights"]
    assert adapter.n_members == ADAPTERS[reference]["members"]
    below = adapter.on_top_of
    assert (below and {"name": below.name, "digest": below.digest}) == card.get("on_top_of")


def test_a_card_holds_the_recipe_it_was_trained_by(store: Store, reference: str) -> None:
    recipe = Recipe.of(card_of(store.path(reference))["training"]["recipe"], FOLDER / "recipes")
    by_name = {content["name"]: name for name, content in RECIPES.items()}
    changes = ["training.seed=1"] if reference == "acme/intent@2" else []
    assert recipe == Recipe.load(FOLDER / "recipes" / f"{by_name[recipe.name]}.yaml", changes)


def test_tensors_are_those_of_the_files(store: Store, reference: str, adapter: Adapter) -> None:
    folder, expected = store.path(reference), ADAPTERS[reference]
    others = [folder / "members" / f"{n}.safetensors" for n in range(1, expected["members"])]
    files = [folder / "adapter_model.safetensors", *others]
    for member, file in zip(adapter.members, files, strict=True):
        saved = load_file(file)
        for tensors, keys in (
            (member.tensors, expected["tensors"]),
            (member.head, expected["head"]),
        ):
            assert tensors.keys() == keys.keys()
            for name, key in keys.items():
                layers = key if isinstance(key, list) else [key]
                parts = [saved.pop(layer) for layer in layers]
                right = torch.stack(parts) if isinstance(key, list) else parts[0]
                assert tensors[name].dtype == right.dtype
                assert torch.equal(tensors[name], right), name
        assert not saved, "tensors of the file that the adapter does not have"


def test_answers_are_the_same(predictor: Predictor, reference: str, tolerance: float) -> None:
    name, rows = reference.partition("@")[0], ADAPTERS[reference]["rows"]
    answers = [predictor([(name, row["asked"])])[0] for row in rows]
    check_answers(answers, [row["answer"] for row in rows], tolerance)


def test_answers_to_mixed_requests_are_the_same(
    backbone: Backbone, store: Store, tolerance: float
) -> None:
    predictor = Predictor(backbone)
    for name in store.names():
        predictor.load(store.path(name))
    with (FOLDER / "requests.csv").open(encoding="utf-8", newline="") as file:
        requests = [(row["adapter"], row["text"]) for row in csv.DictReader(file)]
    check_answers(predictor(requests), EXPECTED["requests"], tolerance)


def test_the_command_line_answers_the_same() -> None:
    options = ["--backbone", str(FOLDER / "backbone"), "--device", "cpu", "--json"]
    rows = run_command("predict", "--input", FOLDER / "requests.csv", *options, *STORE).json
    # The row's own text and the answer in one line stand beside the keys of version 0.1.0.
    added = ("text", "prediction")
    answers = [{key: value for key, value in row.items() if key not in added} for row in rows]
    check_answers(answers, EXPECTED["requests"], TOLERANCE)


def test_the_command_line_shows_a_card_as_before() -> None:
    found = run_command("inspect", "acme/on-talk", "--json", *STORE).json
    card = card_of(FOLDER / "store/acme/on-talk/1")
    below = found["on_top_of"].pop("folder")
    assert Path(below) == FOLDER / "store/acme/talk/1"
    assert {key: found[key] for key in card} == card
