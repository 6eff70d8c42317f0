"""The sample recipes, one for every task: valid rows, and one epoch of training each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.data.splits import SPLITS
from adapterkit.inference.labelled import prepare_rows
from adapterkit.tasks.base import tasks
from adapterkit.tasks.columns import source_columns, target_columns
from adapterkit.tasks.types import Row
from adapterkit.training.initial_adapter import fresh_adapter
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.paths import ROOT

FOLDER = ROOT / "recipes" / "tasks"
FILES = sorted(FOLDER.glob("*.yaml"))

every = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@pytest.fixture(scope="session")
def store(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the parent of a sample recipe, trained on the tiny backbone."""
    shelf = Store(tmp_path_factory.mktemp("store"))
    recipes = {recipe.name: recipe for recipe in map(Recipe.load, FILES)}
    for recipe in recipes.values():
        below = recipe.training.on_top_of
        if below is not None:
            ground = train(small(recipes[below], tiny), tiny, progress=False)
            shelf.publish(ground, tiny.geometry)
    return shelf


def small(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The recipe for one epoch on a backbone with few positions."""
    content = recipe.plain()
    room = backbone.geometry.positions - recipe.method.num_virtual_tokens
    task = {**content["task"], "max_length": min(content["task"]["max_length"] or room, room)}
    training = {**content["training"], "epochs": 1}
    return Recipe.of({**content, "task": task, "training": training}, recipe.folder)


def load(recipe: Recipe) -> dict[str, list[Row]]:
    return recipe.data.load(recipe.folder, recipe.training.seed, recipe.task)


def test_every_task_has_a_sample_recipe() -> None:
    assert {Recipe.load(file).task.type for file in FILES} == set(tasks())
    assert len({Recipe.load(file).name for file in FILES}) == len(FILES)


def test_the_table_lists_every_recipe_and_its_method() -> None:
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    for file in FILES:
        (line,) = [line for line in lines if line.startswith(f"| `{file.name}`")]
        recipe = Recipe.load(file)
        assert recipe.method.type in line.lower()
        assert f"`{recipe.task.main_metric}`" in line


@every
def test_rows_are_valid_for_their_task(tiny: Backbone, store: Store, file: Path) -> None:
    recipe = small(Recipe.load(file), tiny)
    splits = load(recipe)
    assert tuple(splits) == SPLITS
    rows = [row for part in splits.values() for row in part]
    shares = [len(part) / len(rows) for part in splits.values()]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.05)
    inputs = Counter(tuple(row.fields[role] for role in _input_roles(recipe)) for row in rows)
    assert max(inputs.values()) == 1, "no row occurs twice"
    for row in rows:
        recipe.task.fields({role: row.fields[role] for role in _input_roles(recipe)}, row.where)
    adapter = fresh_adapter(recipe, tiny, splits["train"], store)
    for part in splits.values():
        assert len(prepare_rows(tiny, adapter, part)) == len(part)
    strata = [{recipe.task.stratum(row) for row in part} for part in splits.values()]
    assert all(found == strata[0] for found in strata), "every split has every label"


@every
def test_one_epoch_reports_the_main_metric(tiny: Backbone, store: Store, file: Path) -> None:
    recipe = small(Recipe.load(file), tiny)
    adapter = train(recipe, tiny, store=store, progress=False)
    assert adapter.name == recipe.name
    for split in ("validation", "test"):
        assert -1.0 <= adapter.metrics[split][recipe.task.main_metric] <= 1.0
    assert [floor.name for floor in adapter.stack[:-1]] == (
        [recipe.training.on_top_of] if recipe.training.on_top_of else []
    )
    assert adapter.training["rows"] == {name: len(part) for name, part in load(recipe).items()}


def _input_roles(recipe: Recipe) -> list[str]:
    """Roles of the inputs of a task."""
    columns = recipe.task.columns
    return [
        role
        for role in source_columns(columns, recipe.data.columns)
        if role not in target_columns(columns)
    ]
