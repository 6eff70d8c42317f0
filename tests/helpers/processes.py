"""Training in one or several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import load_backbone


def launch_training(recipe: Path, store: Path, processes: int) -> Adapter:
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
        command += ["--num_processes", str(processes), "-m"]
    command += ["adapterkit", "train", str(recipe), "--output", str(store)]
    variables = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = Store(store).path("t/topic")
    assert folder.name == "1"
    recorded = json.loads((folder / "adapterkit.json").read_text())
    assert recorded["training"]["processes"] == processes
    backbone = load_backbone([Recipe.load(recipe)])
    return load_adapter(folder, backbone)
