"""Recipes divided among the workers of a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.folder import load_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.training.optimizer import default_epochs
from adapterkit.training.plan import load_rows
from adapterkit.training.recipe import Recipe
from adapterkit.training.recipe_group import cost
from adapterkit.training.train import train
from helpers.command_line import run_command, write_recipe
from helpers.joint_training import assert_same_weights, recipe_for, with_changes, write_rows


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = pytest.importorskip("ray", reason="the extra adapterkit[ray] is not installed")
    yield module
    module.shutdown()


def test_the_cost_of_a_recipe_counts_rows_epochs_and_members() -> None:
    path = write_rows(1, 30)  # six are for validation
    one = recipe_for("a", path, epochs=4, batch_size=12)
    rows = load_rows(one)
    assert cost(one, rows) == 24 * 4
    assert cost(with_changes(one, training={"ensemble": 3}), rows) == 24 * 4 * 3
    longest = with_changes(one, training={"epochs": None})
    assert cost(longest, rows) == 24 * default_epochs(2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_train_what_one_process_trains(ray: Any, tiny: Backbone, tiny_folder: Path) -> None:
    names = ("t/a", "t/b", "t/c")
    for name, epochs in zip(names, (4, 2, 2), strict=True):
        training = f"{{epochs: {epochs}, batch_size: 4}}"
        write_recipe(tiny_folder, name, training=training).rename(f"{name[2:]}.yaml")
    recipes = [f"{name[2:]}.yaml" for name in names]
    result = run_command("train", *recipes, "--engine", "ray", "--workers", "2", "--json")
    assert result.code == 0, result.err
    assert [one["name"] for one in json.loads(result.out)] == list(names)
    for name, recipe in zip(names, recipes, strict=True):
        alone = train(Recipe.load(recipe), tiny, progress=False)
        found = load_adapter(Path("adapters", name, "1"), tiny)
        assert_same_weights(alone, found, tolerance=1e-4)
        assert found.metrics["validation"] == pytest.approx(alone.metrics["validation"], abs=1e-4)
    again = run_command("train", "a.yaml", "a.yaml", "--engine", "ray")
    assert (again.code, again.err.count("\n")) == (2, 1)
