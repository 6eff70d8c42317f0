"""Many small tenants: trained side by side, in turn, and by one command each."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from ..adapter.adapter import Adapter
from ..adapter.card import read_card
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from ..methods.base import check_method_name, default_method, methods
from ..quiet import quiet_warnings
from ..training.recipe import Recipe
from ..training.train import train, train_many
from .machine import machine
from .timing import ratio, spread, take_turns
from .workload import checkpoint, tenant_rows

TOGETHER, IN_TURN = "train_many, one process", "train in turn, one process"
COMMANDS, COMMAND = "one command for each", "one command for all"

Accuracies = list[float]


@dataclass(frozen=True)
class ManyBench:
    """The same seeded small tenants, trained in every way.

    Attributes:
        backbone: minilm, base (BERT-base's shape, random weights), a folder or a hub name.
        method: A method with its default settings.
        dtype: Dtype of the frozen weights.
        tenants: Number of tenants, each of 100 to 300 rows and 2 to 9 labels.
        batch: Rows of each tenant in a step.
        epochs: Passes over each tenant's rows.
        rounds: How often each way is measured, in turns.
        commands: Also measure whole processes of the command line.

    Raises:
        AdapterkitError: There is no such method, or a number is too small.
    """

    backbone: str = "minilm"
    method: str = field(default_factory=default_method)
    dtype: Literal["float32", "bfloat16"] = "float32"
    tenants: int = 32
    batch: int = 32
    epochs: int = 3
    rounds: int = 1
    commands: bool = True

    def __post_init__(self) -> None:
        check_method_name(self.method, methods())
        if methods()[self.method].parent_type is not None:
            raise AdapterkitError(
                f"the method '{self.method}' needs saved adapters; name another one (--method)"
            )
        if min(self.tenants, self.batch, self.epochs, self.rounds) < 1:
            raise AdapterkitError("tenants, batch, epochs and rounds must be at least 1")

    def run(self) -> dict[str, Any]:
        """Measures the ways of training, and compares their scores.

        Returns:
            `bench`, `settings`, `machine`, and `rows`: for each way `seconds` (the median) with
            `min` and `max`, `rows_per_second` of training, `accuracy` (the tenants' mean on test
            rows), `most_apart` (the largest difference of one tenant's accuracy from that of
            training in turn), and `faster_than_in_turn`.

        Raises:
            AdapterkitError: The backbone cannot be used, or a command fails.
        """
        with checkpoint(self.backbone) as model, tempfile.TemporaryDirectory() as folder:
            job = TenantJob.of(self, model, Path(folder))
            ways: dict[str, Callable[[], Accuracies]] = {
                IN_TURN: job.in_turn,
                TOGETHER: job.together,
            }
            if self.commands:
                each = [[file] for file in job.files]
                ways |= {
                    COMMANDS: partial(job.commands, each),
                    COMMAND: partial(job.commands, [job.files]),
                }
            found: dict[str, Accuracies] = {}
            systems = {name: partial(_keep_result, found, name, way) for name, way in ways.items()}
            times = take_turns(systems, self.rounds, warm_up=0)
        rows = []
        for name in ways:
            rows.append(
                {
                    "system": name,
                    **spread([ms / 1000 for ms in times[name]], "seconds"),
                    "rows_per_second": round(1000 * job.n_rows / mean(times[name])),
                    "accuracy": round(mean(found[name]), 4),
                    "most_apart": round(
                        max(abs(a - b) for a, b in zip(found[name], found[IN_TURN], strict=True)), 4
                    ),
                    "faster_than_in_turn": ratio(times[IN_TURN], times[name]),
                }
            )
        return {"bench": "many", "settings": asdict(self), "machine": machine(), "rows": rows}


@dataclass(frozen=True)
class TenantJob:
    """The recipes of the tenants as files, and the backbone that they share.

    Attributes:
        files: A recipe file for each tenant.
        n_rows: Number of training rows, over all epochs and tenants.
        backbone: Loaded once, for the ways that are one process.
        recipes: The recipes of the files.
    """

    files: list[Path]
    n_rows: int
    backbone: Backbone
    recipes: list[Recipe] = field(default_factory=list)

    @classmethod
    def of(cls, bench: ManyBench, model: Path, folder: Path) -> TenantJob:
        """Writes the rows and the recipe of every tenant."""
        backbone = Backbone.load(str(model), dtype=bench.dtype, device="cpu")
        files, n_rows = [], 0
        for tenant in range(bench.tenants):
            rows = tenant_rows(backbone.tokenizer, tenant)
            n_rows += bench.epochs * sum(row["split"] == "train" for row in rows)
            data = folder / f"{tenant}.jsonl"
            data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
            files.append(folder / f"{tenant}.yaml")
            content = {
                "name": f"tenant{tenant}/bench",
                "data": {"path": data.name},
                "backbone": {"model": str(model), "dtype": bench.dtype, "device": "cpu"},
                "method": {"type": bench.method},
                "training": {"epochs": bench.epochs, "batch_size": bench.batch, "seed": tenant},
            }
            files[-1].write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        return cls(files, n_rows, backbone, [Recipe.load(file) for file in files])

    def in_turn(self) -> Accuracies:
        """Trains one recipe after the other."""
        with quiet_warnings():
            return _accuracies([train(it, self.backbone, progress=False) for it in self.recipes])

    def together(self) -> Accuracies:
        """Trains all recipes in shared steps."""
        with quiet_warnings():
            return _accuracies(train_many(self.recipes, self.backbone, progress=False))

    def commands(self, groups: Sequence[Sequence[Path]]) -> Accuracies:
        """Runs `adapterkit train` for each group of recipes, each in a process of its own.

        Raises:
            AdapterkitError: A command fails.
        """
        found = []
        with tempfile.TemporaryDirectory() as store:
            for files in groups:
                _command("train", *map(str, files), "--output", store)
            trained = Store(store)
            for recipe in self.recipes:
                card = read_card(trained.path(recipe.name))
                found.append(card["metrics"]["test"]["accuracy"])
        return found


def _keep_result(found: dict[str, Accuracies], name: str, way: Callable[[], Accuracies]) -> None:
    found[name] = way()


def _accuracies(adapters: Sequence[Adapter]) -> Accuracies:
    return [adapter.metrics["test"]["accuracy"] for adapter in adapters]


def _command(*arguments: str) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "adapterkit", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AdapterkitError(f"adapterkit {' '.join(arguments)} failed: {last}")
