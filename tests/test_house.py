"""How the house is built: imports go one way, nobody names a single method or task."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import ROOT
from typer.main import get_command

from adapterkit.cli.app import app
from adapterkit.methods.base import methods
from adapterkit.schema import keys_of
from adapterkit.tasks.base import tasks
from adapterkit.training.augmentation import Augmentation
from adapterkit.training.recipe import BackboneSection, Training, describe_keys

PACKAGE = ROOT / "adapterkit"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name not in ("__init__.py", "__main__.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path: Path, top_level: bool) -> set[str]:
    """Modules of the package that a module imports, as names inside the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    here, found = name_of(path).split("."), set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            parts = [*base, *(node.module.split(".") if node.module else [])]
            found |= {".".join(parts)} if node.module else {alias.name for alias in node.names}
    return found


def test_imports_have_no_cycle() -> None:
    graph = {name_of(path): imports_of(path, top_level=True) for path in MODULES}
    done: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"imports go round: {' -> '.join((*trail, name))}"
        if name in graph and name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.append(name)

    for name in graph:
        visit(name, ())
    assert done.index("errors") < done.index("method") < done.index("edits")
    assert done.index("edits") < done.index("backbone") < done.index("forward")
    assert done.index("forward") < done.index("predict") < done.index("training")


def test_nobody_names_a_single_method_or_task() -> None:
    kinds = {f"methods.{name_of(p).split('.')[1]}" for p in MODULES if p.parent.name == "methods"}
    kinds |= {f"tasks.{name_of(p).split('.')[1]}" for p in MODULES if p.parent.name == "tasks"}
    assert len(kinds) >= 4
    for path in MODULES:
        named = imports_of(path, top_level=False) & kinds
        assert not named, f"{name_of(path)} imports {named}"


def test_every_key_of_a_recipe_has_a_meaning() -> None:
    own = (BackboneSection, Training, Augmentation)
    for section in (*methods().values(), *tasks().values(), *own):
        for key, _, meaning in keys_of(section):
            assert meaning, f"{section.__name__}.{key} has no meaning in its docstring"
    assert "training" in describe_keys()


def test_importing_adapterkit_does_not_import_torch() -> None:
    code = "import sys, adapterkit, adapterkit.cli.app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_readme_speaks_of_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    group: Any = get_command(app)
    assert len(group.commands) >= 12
    for name in group.commands:
        assert f"adapterkit {name}" in readme
