"""Training in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import load_backbone

PROGRAM = """
import runpy, sys

_, store, *commands = sys.argv
for recipes in commands:
    sys.argv = ["adapterkit", "train", *recipes.split(","), "--output", store]
    try:
        runpy.run_module("adapterkit", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""
"""`adapterkit train` with several lists of recipes: processes are started once for all of them."""


def train_in_processes(
    recipes: Sequence[Path], folder: Path, processes: int = 2, together: Sequence[Path] = ()
) -> list[Adapter]:
    """Trains recipes in several processes that Accelerate's launcher starts.

    Args:
        recipes: Recipe files, which are trained one after the other.
        folder: Where the program and a store of the adapters are written.
        processes: Number of processes.
        together: Recipe files of one command more.

    Returns:
        The adapters of all recipes, as they were saved.
    """
    program, store = folder / "program.py", folder / "store"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--multi_gpu", "--num_machines", "1", "--num_processes", str(processes)]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += [str(program), str(store), *map(str, recipes)]
    command += [",".join(map(str, together))] if together else []
    variables = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    adapters = []
    for recipe in map(Recipe.load, [*recipes, *together]):
        version = Store(store).path(recipe.name)
        assert version.name == "1"
        card = json.loads((version / "adapterkit.json").read_text(encoding="utf-8"))
        assert card["training"]["processes"] == processes
        adapters.append(load_adapter(version, load_backbone([recipe])))
    return adapters
