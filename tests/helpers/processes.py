"""Training in several processes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import load_backbone

PROGRAM = """
import json, os, runpy, sys

import torch

from adapterkit.backbone.shards import Shards
from adapterkit.training.trainable import TrainableAdapters

gather, whole = Shards.gather, TrainableAdapters.outputs

def watched(self, number):
    gathered.add(number)
    return gather(self, number)

def limited(self, micro_batches, adapters):
    found = whole(self, micro_batches, adapters)
    tokens = sum(micro_batch.n_tokens for micro_batch in micro_batches.values())
    if torch.is_grad_enabled() and tokens > MOST_TOKENS:
        raise MemoryError
    return found

Shards.gather = watched
_, store, *commands = sys.argv
for command in map(json.loads, commands):
    gathered = set()
    if command["sharded"]:
        os.environ["ACCELERATE_USE_FSDP"] = "true"
    is_limited = command["limited"] and os.environ["RANK"] == "1"
    TrainableAdapters.outputs = limited if is_limited else whole
    sys.argv = ["adapterkit", "train", *command["recipes"], "--output", store]
    try:
        runpy.run_module("adapterkit", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    assert bool(gathered) == command["sharded"]
"""
"""`adapterkit train` with several lists of recipes: processes are started once for all of them."""

MOST_TOKENS = 12
"""Tokens of a micro-batch that fit into the memory of the second process if it is limited."""


def train_in_processes(
    recipes: Sequence[Path],
    folder: Path,
    programs: Path,
    processes: int = 2,
    together: Sequence[Path] = (),
    sharded: Sequence[Path] = (),
) -> list[Adapter]:
    """Trains recipes in several processes that Accelerate's launcher starts.

    Args:
        recipes: Recipe files, which are trained one after the other.
        folder: Where the program and a store of the adapters are written.
        programs: The folder of the program `python` that runs them.
        processes: Number of processes.
        together: Recipe files of one command more.
        sharded: Recipe files of commands with FSDP. The first is trained with little memory.

    Returns:
        The adapters of all recipes, as they were saved.
    """
    program, store = folder / "program.py", folder / "store"
    text = PROGRAM.replace("MOST_TOKENS", str(MOST_TOKENS))
    program.write_text(text, encoding="utf-8")
    lists = [*([recipe] for recipe in recipes), together, *([recipe] for recipe in sharded)]
    commands = [
        json.dumps(
            {
                "recipes": list(map(str, files)),
                "sharded": files[0] in sharded,
                "limited": files[0] in sharded[:1],
            }
        )
        for files in lists
        if files
    ]
    python = str(programs / "python")
    command = [python, "-m", "accelerate.commands.launch"]
    command += ["--multi_gpu", "--num_machines", "1", "--num_processes", str(processes)]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += [str(program), str(store), *commands]
    variables = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHON_EXEC": python}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    adapters = []
    for recipe in map(Recipe.load, [*recipes, *together, *sharded]):
        version = Store(store).path(recipe.name)
        assert version.name == "1"
        card = json.loads((version / "adapterkit.json").read_text(encoding="utf-8"))
        assert card["training"]["processes"] == processes
        adapters.append(load_adapter(version, load_backbone([recipe])))
    return adapters
