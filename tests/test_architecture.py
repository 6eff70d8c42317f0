"""Imports go one way, on the line in CONTRIBUTING.md; no core module names a single kind."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from adapterkit.backbone.families.base import families
from adapterkit.methods.base import methods
from adapterkit.metrics.base import metric_kinds
from adapterkit.schema import keys_of
from adapterkit.tasks.base import tasks
from adapterkit.training.augmentation import Augmentation
from adapterkit.training.backbone_section import BackboneSection
from adapterkit.training.callbacks.base import callbacks
from adapterkit.training.recipe_keys import describe_keys
from adapterkit.training.training_section import Training
from helpers.paths import ROOT

PACKAGE = ROOT / "adapterkit"
GROUND = "ground"
MOST_LOOSE = 10
TESTS = ROOT / "tests"
NOT_PACKAGES = {"fixtures", "helpers", "plugins", "recipes"}
"""Folders of `tests/` that mirror no package."""


def name_of(path: Path) -> str:
    """A module's name inside the package; a package's for its `__init__`, empty for the root's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def places_on(line: str) -> dict[str, int]:
    """Each name's place on a line of directions, from the left."""
    return {
        name.strip(): place
        for place, stop in enumerate(line.split(" -> "))
        for name in stop.split("|")
    }


def direction() -> tuple[dict[str, int], set[str]]:
    """The direction line of CONTRIBUTING.md.

    Returns:
        Each package's place on the line, from the left, and the modules of the ground.
    """
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^__main__ -> .+$", text, re.MULTILINE)
    (ground,) = re.findall(r"^ground: (.+)$", text, re.MULTILINE)
    return places_on(line), set(ground.split(", "))


PLACES, GROUND_MODULES = direction()


def package_of(module: str) -> str:
    """Where a module stands on the line: its package, or the ground."""
    first = module.partition(".")[0]
    return GROUND if first in GROUND_MODULES else first


@cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of the package that a module imports: at the top, in functions and for types."""
    path = MODULES[module]
    here = ["adapterkit", *module.split(".")]
    if path.name != "__init__.py":
        here = here[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            named = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for parts in named:
            if parts[0] == "adapterkit":
                full, parent = ".".join(parts[1:]), ".".join(parts[1:-1])
                found.add(full if full in MODULES else parent)
    return frozenset(found)


INNER = [name for name in MODULES if name]  # all but the root, which shows the rest to users


def test_every_package_stands_on_the_line() -> None:
    assert {package_of(name) for name in INNER} == set(PLACES)
    assert {name for name in INNER if package_of(name) == GROUND} == GROUND_MODULES


def test_imports_go_from_left_to_right() -> None:
    wrong = [
        f"{module} imports {other}"
        for module in INNER
        for other in imports_of(module)
        if package_of(module) != package_of(other)
        and not (other and PLACES[package_of(module)] < PLACES[package_of(other)])
    ]
    assert wrong == []


def test_imports_have_no_cycle() -> None:
    order = TopologicalSorter({name: imports_of(name) - {name} for name in INNER})
    order.prepare()  # raises CycleError, which names the cycle


def test_imports_in_serving_go_from_left_to_right() -> None:
    """Also those by way of the modules beside the sub-packages."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^replicas -> .+$", text, re.MULTILINE)
    places = places_on(line)
    assert set(places) == {path.parent.name for path in PACKAGE.glob("serving/*/__init__.py")}
    graph: dict[str, set[str]] = defaultdict(set)
    for module in INNER:
        if part := part_of_serving(module):
            graph[part] |= {part_of_serving(other) for other in imports_of(module)} - {part, ""}
    wrong = [
        f"{part} imports {other}"
        for part in places
        for other in graph[part] & set(places)
        if places[part] >= places[other]
    ]
    assert wrong == []
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def part_of_serving(module: str) -> str:
    """The sub-package of `serving` with a module, else the module; empty for other packages."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "serving" else ""


def test_few_modules_lie_loose() -> None:
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert loose == GROUND_MODULES
    assert len(loose) <= MOST_LOOSE


def test_a_package_has_nothing_in_its_init_but_a_line_of_docstring() -> None:
    for name in INNER:
        if MODULES[name].name == "__init__.py":
            tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
            assert len(tree.body) == 1, name
            assert len((ast.get_docstring(tree) or "\n\n").splitlines()) == 1, name


def imported_by(*modules: str) -> set[str]:
    """What a fresh process has imported after some modules of the package."""
    code = f"import sys, {', '.join(modules)}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_ground_imports_no_torch() -> None:
    ground = sorted(f"adapterkit.{name}" for name in GROUND_MODULES)
    assert "torch" not in imported_by(*ground, "adapterkit.client.http")


def test_reading_a_request_does_not_import_torch() -> None:
    assert "torch" not in imported_by("adapterkit.data.requests", "adapterkit.tasks.columns")


def test_importing_the_command_line_does_not_import_torch() -> None:
    assert "torch" not in imported_by("adapterkit", "adapterkit.cli.app")


def public_classes() -> Iterator[tuple[str, str]]:
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, module


def test_a_class_name_stands_once_in_the_package() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for name, module in public_classes():
        places[name].append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def family_classes() -> dict[str, Any]:
    """Class of each family by its own name and by the model types that it claims."""
    kinds = {model_type: type(family) for model_type, family in families().items()}
    return kinds | {kind.type: kind for kind in kinds.values()}


REGISTRIES: dict[str, Callable[[], dict[str, Any]]] = {
    "methods": methods,
    "tasks": tasks,
    "backbone.families": family_classes,
}
"""Package of a kind to its registry."""

WORDS = {"bottleneck", "embedding", "head", "prefix", "regression", "relation", "tagging"}
"""Names of kinds that are words of the language too: they may occur in a sentence."""

OTHER_MEANING = {
    ("backbone.tokenizer", "head"),  # the beginning of a long text
    ("tasks.pooled", "head"),  # likewise
    ("tasks.multiple_choice", "head"),  # likewise
    ("tasks.relation", "head"),  # the first argument of a relation
    ("methods.prefix", "embedding"),  # a tensor
    ("serving.routes.vectors", "embedding"),  # a key of OpenAI's format
    ("serving.bodies.responses", "embedding"),  # likewise
    ("serving.bodies.pipeline_options", "multi_label"),  # an option of zero-shot pipelines
}
"""Module and string that is equal to the name of a kind, and what it means there."""


ALL_REGISTRIES = REGISTRIES | {"metrics": metric_kinds, "training.callbacks": callbacks}
"""The same with kinds whose names are also keys of files."""


@pytest.mark.parametrize("package", ALL_REGISTRIES)
def test_only_its_own_package_imports_a_kind(package: str) -> None:
    kinds = ALL_REGISTRIES[package]().values()
    own = {kind.__module__.removeprefix("adapterkit.") for kind in kinds}
    assert len(own) >= 3
    assert own <= set(MODULES)
    for module in INNER:
        named = imports_of(module) & own
        assert not named or module.startswith(package), f"{module} imports {named}"


def strings_of(module: str) -> set[str]:
    """Strings in the code of a module; docstrings are not among them."""
    nodes = list(ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))))
    documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = (node for node in nodes if isinstance(node, ast.Constant))
    return {c.value for c in constants if isinstance(c.value, str) and id(c) not in documentation}


def names_in(text: str, names: set[str]) -> set[str]:
    """Names of kinds in a string: all if it holds nothing else, else those that are no words."""
    parts = set(re.findall(r"[\w-]+", text))
    return parts if parts and parts <= names else parts & (names - WORDS)


@pytest.mark.parametrize("package", REGISTRIES)
def test_only_its_own_package_names_a_kind(package: str) -> None:
    """Benchmarks are no core code: they measure the same kinds whatever is registered."""
    names = set(REGISTRIES[package]())
    core = [name for name in INNER if not name.startswith((package, "bench"))]
    found = {
        f"{module}: {text!r}"
        for module in core
        for text in strings_of(module)
        if names_in(text, names) and (module, text) not in OTHER_MEANING
    }
    assert found == set()


EXTENDED_METHODS = {"methods.bottleneck", "methods.lora"}
"""Modules of methods that others extend, or whose tables they read."""


def test_a_method_is_known_in_its_own_file_alone() -> None:
    """So it is added or removed with that file (`tests/methods/test_one_file.py` removes each)."""
    modules = {name: kind.__module__.partition(".")[2] for name, kind in methods().items()}
    alone = {name for name, module in modules.items() if module not in EXTENDED_METHODS}
    files = {modules[name] for name in alone}
    assert len(files) == len(alone) >= 3
    for module in INNER:
        imported = imports_of(module) & files
        assert not imported - {module}, f"{module} imports {imported}"
    for module in MODULES:
        if module.startswith("methods."):
            others = {name for name in alone if modules[name] != module}
            named = [text for text in strings_of(module) if names_in(text, others)]
            assert named == [], f"{module} names {named}"


def test_every_key_of_a_recipe_has_a_meaning() -> None:
    own = (BackboneSection, Training, Augmentation)
    for section in (*methods().values(), *tasks().values(), *own):
        for key, _, meaning in keys_of(section):
            assert meaning, f"{section.__name__}.{key} has no meaning in its docstring"
    assert "training" in describe_keys()


def test_the_test_folders_are_the_packages() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/test_*.py")}
    assert folders - NOT_PACKAGES == packages


def test_no_test_file_imports_another() -> None:
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                found = [part for part in parts if part == "conftest" or part.startswith("test_")]
                assert not found, f"{path.relative_to(ROOT)} imports {name}"
