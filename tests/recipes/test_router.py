"""The recipes and scripts of recipes/router, on a tiny backbone."""

from __future__ import annotations

import runpy
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.predictor import Predictor
from adapterkit.methods.base import methods
from adapterkit.tasks.types import Row
from adapterkit.training.initial_adapter import fresh_adapter
from adapterkit.training.recipe import Recipe
from helpers.command_line import run_command
from helpers.paths import ROOT

FOLDER = ROOT / "recipes" / "router"
FILES = sorted(FOLDER.glob("*.yaml"))
TEXTS = ("my card please", "我的 rain")

Script = Callable[..., str]


@pytest.fixture(scope="module")
def store(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Adapters with the names, tasks and labels of the recipes, and random weights."""
    shelf = Store(tmp_path_factory.mktemp("router"))
    for recipe in map(Recipe.load, FILES):
        rows = recipe.data.load(recipe.folder, recipe.training.seed, recipe.task)["train"]
        make: Any = methods()[recipe.method.type]
        method = make(r=4)  # in all layers: the tiny backbone has three
        adapter = fresh_adapter(replace(recipe, method=method), tiny, rows)
        draws = torch.Generator().manual_seed(len(adapter.name))
        head = {key: torch.randn(it.shape, generator=draws) for key, it in adapter.head.items()}
        tensors = {
            key: 0.2 * torch.randn(it.shape, generator=draws) for key, it in adapter.tensors.items()
        }
        shelf.publish(replace(adapter, tensors=tensors, head=head), tiny.geometry)
    return shelf


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_folder: Path
) -> Script:
    """Runs a script in this process and returns its standard output."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_recipe_has_balanced_rows_that_occur_once() -> None:
    for file in FILES:
        recipe = Recipe.load(file)
        splits = recipe.data.load(recipe.folder, recipe.training.seed, recipe.task)
        rows: list[Row] = [row for part in splits.values() for row in part]
        inputs = Counter(str(row.fields.get("text", row.fields.get("tokens"))) for row in rows)
        assert max(inputs.values()) == 1, file.name
        if recipe.task.type == "classification":
            labels = Counter(str(row.fields["label"]) for row in rows)
            assert len(set(labels.values())) == 1, file.name
            for part in splits.values():
                assert {str(row.fields["label"]) for row in part} == set(labels), file.name


def test_one_call_answers_as_each_adapter_does_alone(
    tiny: Backbone, store: Store, script: Script
) -> None:
    header, *lines = script("route.py", "--store", store.root, *TEXTS).splitlines()
    names = [f"router/{name}" for name in header.split()[1:]]
    assert sorted(names) == sorted(Recipe.load(file).name for file in FILES) == store.names()
    predictor = Predictor.open(names, store, backbone=tiny)
    for line, text in zip(lines, TEXTS, strict=True):
        assert line.startswith(text)
        answers = [predictor([(name, text)])[0] for name in names]
        labels = [str(answer["label"]) for answer in answers if "label" in answer]
        assert len(labels) == 5
        assert [word for word in line.split() if word in labels] == labels


@pytest.mark.slow
def test_merged_models_give_equal_answers(store: Store, script: Script, tmp_path: Path) -> None:
    for name in store.names():
        target = tmp_path / name.partition("/")[2]
        words = ("export", name, "--format", "merged", "--store", store.root, "--output", target)
        assert run_command(*words).code == 0
    lines = script("compare_merged.py", tmp_path, "--store", store.root, "--rounds", 1).splitlines()
    assert lines[0] == "96 of 96 answers are equal"
    assert [line.split()[0] for line in lines[2:]] == ["1"] * 3 + ["16"] * 3
    with pytest.raises(SystemExit, match="there is no such folder; export router/intent to it"):
        script("compare_merged.py", tmp_path / "none", "--store", store.root)
