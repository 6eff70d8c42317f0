"""The README's main job, and the sample adapters it left in the default store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.cli import quickstart
from adapterkit.cli.quickstart import recipes_folder, run_quickstart
from adapterkit.data.requests import read_requests
from adapterkit.inference.predictor import Predictor
from adapterkit.training.recipe import Recipe
from helpers.command_line import run_command
from helpers.paths import ROOT

EXPECTED = [
    ("acme/intent", "card_lost"),
    ("globex/consulta", "envio"),
    ("initech/ticket", "hardware"),
    ("acme/intent", "fee_complaint"),
    ("initech/ticket", "access"),
    ("globex/consulta", "pago"),
    ("acme/intent", "new_address"),
    ("globex/consulta", "devolucion"),
    ("initech/ticket", "network"),
    ("base", None),
]


@pytest.mark.parametrize("epochs", [6, pytest.param(12, marks=pytest.mark.slow)])
def test_quickstart_trains_three_methods_and_predicts_a_mixed_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """The recipes have 12 epochs; the scores that are asserted here are reached in fewer."""
    folder = shutil.copytree(recipes_folder(), tmp_path / "recipes")
    for file in folder.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert "epochs: 12" in text
        file.write_text(text.replace("epochs: 12", f"epochs: {epochs}"), encoding="utf-8")
    monkeypatch.setattr(quickstart, "recipes_folder", lambda: folder)
    result, shown = run_quickstart(tmp_path / "store")
    assert {entry["method"] for entry in result["adapters"]} == {"lora", "prefix", "bottleneck"}
    assert len({entry["labels"] for entry in result["adapters"]}) == 3
    for entry in result["adapters"]:
        assert entry["metrics"]["test"]["accuracy"] >= 0.8
        assert entry["bytes"] < 500_000
        assert entry["share"] < 0.01
    assert [(a["adapter"], a.get("label")) for a in result["answers"]] == EXPECTED
    assert len(shown.splitlines()) == 1 + len(EXPECTED)
    assert Store(tmp_path / "store").names() == [entry["name"] for entry in result["adapters"]]


def test_the_sample_adapters_predict_without_training(minilm: Backbone) -> None:
    store, predictor = Store(ROOT / "adapters"), Predictor(minilm)
    for name in store.names():
        folder = store.path(name)
        assert sum(file.stat().st_size for file in folder.rglob("*")) < 500_000
        assert predictor.load(folder) == name
    requests = read_requests(recipes_folder() / "mixed.csv", {"text": "text"}, "adapter")
    answers = predictor([(request.adapter, request.text) for request in requests])
    assert [(a["adapter"], a.get("label")) for a in answers] == EXPECTED


def test_the_sample_adapters_equal_training_by_their_recipes() -> None:
    listed = run_command("list", ROOT / "adapters", "--json").json
    samples = {entry["name"]: entry for entry in listed}
    recipes = [Recipe.load(file) for file in recipes_folder().glob("*.yaml")]
    assert {recipe.name for recipe in recipes} == set(samples)
    for recipe in recipes:
        folder = Path(samples[recipe.name]["folder"])
        card = json.loads((folder / "adapterkit.json").read_text(encoding="utf-8"))
        assert Recipe.of(card["training"]["recipe"]).plain() == recipe.plain()
