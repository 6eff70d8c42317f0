"""A method is one file: the package without it imports, lists the others, trains and answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

import adapterkit.methods
from adapterkit.backbone.model import Backbone
from adapterkit.inference.predictor import Predictor
from adapterkit.methods.base import default_method, methods
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.joint_training import write_rows

BASES = ("lora", "bottleneck")
"""Methods that others extend, or whose tables they read."""

MODULES = {
    name: kind.__module__
    for name, kind in methods().items()
    if kind.__module__.startswith("adapterkit.") and name not in BASES
}
"""Every other method, and its module."""

TEXTS = ["my bank card", "rain and sun"]

PROGRAM = """
import json, pkgutil, sys
from importlib import import_module

import adapterkit

everything, folder, backbone, recipe, texts = map(json.loads, sys.argv[1:])
for name in [*sys.modules]:  # the process has every method; backbone and operators know none
    if name.startswith("adapterkit.") and name.split(".")[1] not in ("backbone", "ops"):
        del sys.modules[name]
import_module("adapterkit.methods").__path__ = [folder]
if everything:
    for info in pkgutil.walk_packages(adapterkit.__path__, "adapterkit."):
        try:
            if info.name != "adapterkit.__main__":
                import_module(info.name)
        except ModuleNotFoundError as error:  # an extra that is not installed
            if error.name.startswith("adapterkit"):
                raise

from adapterkit import Backbone, Predictor, Recipe, train
from adapterkit.methods.base import methods
from adapterkit.training.recipe_keys import describe_keys

loaded = Backbone.load(backbone, device="cpu")
adapter = train(Recipe.of(recipe), loaded, progress=False)
answers = Predictor(loaded, [adapter]).predict(adapter.name, texts)
print(json.dumps([list(methods()), describe_keys(), list(sys.modules), answers]))
"""


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A recipe of the default method."""
    return {
        "name": "t/topic",
        "data": {"path": write_rows(1, 24)},
        "task": {"type": "classification", "pooling": "mean"},
        "method": {"type": default_method()},
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 5e-3},
    }


@pytest.fixture
def check_without(
    programs: Path, tiny: Backbone, recipe: dict[str, Any], tmp_path: Path
) -> Callable[..., None]:
    """A function that checks the package without the files of some methods."""

    def check(removed: Collection[str], *, everything: bool) -> None:
        files = [f"{MODULES[name].rpartition('.')[2]}.py" for name in removed]
        original = Path(adapterkit.methods.__path__[0])
        folder = tmp_path / "methods"
        shutil.copytree(original, folder, ignore=shutil.ignore_patterns("__pycache__", *files))
        assert len(list(folder.glob("*.py"))) == len(list(original.glob("*.py"))) - len(files)
        Path("program.py").write_text(PROGRAM, encoding="utf-8")
        arguments = (everything, str(folder), tiny.name, recipe, TEXTS)
        done = subprocess.run(
            [programs / "python", "program.py", *map(json.dumps, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        names, keys, modules, answers = json.loads(done.stdout.splitlines()[-1])
        assert names == [name for name in methods() if name not in removed]
        for name in methods():
            assert (f"method: {{type: {name}}}" in keys) == (name not in removed)
        assert not {MODULES[name] for name in removed} & set(modules)
        adapter = train(Recipe.of(recipe), tiny, progress=False)
        for found, expected in zip(
            answers, Predictor(tiny, [adapter]).predict(adapter.name, TEXTS), strict=True
        ):
            assert found["label"] == expected["label"]
            assert found["scores"] == pytest.approx(expected["scores"], abs=1e-3)

    return check


def test_the_package_works_without_the_files_of_all(check_without: Callable[..., None]) -> None:
    check_without(MODULES, everything=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_package_works_without_the_file_of_one(
    name: str, check_without: Callable[..., None]
) -> None:
    check_without([name], everything=True)
