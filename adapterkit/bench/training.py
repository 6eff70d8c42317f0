"""Training: rows a second and peak memory of systems in fresh processes, in turns."""

from __future__ import annotations

import random
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import get_num_threads
from tqdm import tqdm

from ..backbone.model import Backbone
from ..errors import AdapterkitError
from ..methods.base import check_method_name, default_method, methods
from ..schema import dump
from .guest import Guest
from .machine import has_peft, machine
from .timing import ratio, spread
from .workload import checkpoint, labelled_rows

BATCH = 32
FLOOR, OWN, PEFT = "floor: the linears alone", "adapterkit", "PEFT + Trainer"

Measured = dict[tuple[str, str], list[dict[str, float]]]
"""`rows_per_second` and `peak_mb` of each round, by system and method."""


@dataclass(frozen=True)
class TrainBench:
    """Every system trains on the same seeded rows, on the CPU.

    Attributes:
        backbone: minilm, base (BERT-base's shape, random weights), a folder or a hub name.
        method: A method with its default settings, or all.
        dtype: float32 or bfloat16: dtype of our frozen weights, and the Trainer's mixed
            precision for PEFT.
        steps: Optimiser steps of a run; the first quarter does not count.
        rounds: Number of runs of each system.
        peers: Also measure PEFT, if it is installed.
        guests: Commands of systems in other environments (see `guest`).

    Raises:
        AdapterkitError: There is no such method, or a number is too small.
    """

    backbone: str = "minilm"
    method: str = field(default_factory=default_method)
    dtype: Literal["float32", "bfloat16"] = "float32"
    steps: int = 40
    rounds: int = 3
    peers: bool = True
    guests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_method_name(self.method, ("all", *methods()))
        if self.steps < 4 or self.rounds < 1:
            raise AdapterkitError(
                f"expected at least 4 steps and 1 round, got {self.steps} and {self.rounds}"
            )

    def run(self) -> dict[str, Any]:
        """Measures the systems.

        Returns:
            `bench`, `settings`, `machine`, and `rows`: for each system and method
            `rows_per_second` (the median) with `min` and `max`, `peak_mb`, `it_over_floor`,
            `faster_than_peft` and `peak_over_peft`.

        Raises:
            AdapterkitError: The backbone or a system cannot be used.
        """
        chosen = list(methods()) if self.method == "all" else [self.method]
        with checkpoint(self.backbone) as folder:
            jobs = {kind: self.job(folder, kind) for kind in chosen}
            found = self._take_turns(jobs)
        return {
            "bench": "train",
            "settings": asdict(self),
            "machine": machine(),
            "rows": result_rows(found),
        }

    def job(self, folder: Path, kind: str) -> dict[str, Any]:
        """The job of every system: backbone, rows, the method, and PEFT's configuration of it."""
        backbone = Backbone.load(str(folder), device="cpu", prepared=False)
        texts, labels = labelled_rows(backbone.tokenizer, BATCH * self.steps)
        method = methods()[kind]()
        return {
            "bench": "train",
            "model": str(folder),
            "dtype": self.dtype,
            "method": dump(method),
            "peft": {"peft_type": method.peft_type, **method.config(backbone.geometry)},
            "batch": BATCH,
            "threads": get_num_threads(),
            "texts": texts,
            "labels": labels,
        }

    def _take_turns(self, jobs: Mapping[str, Mapping[str, Any]]) -> Measured:
        own = [sys.executable, "-m", "adapterkit.bench.trainers"]
        systems = {OWN: [*own, "adapterkit"]}
        if self.peers and has_peft():
            systems[PEFT] = [*own, "peft"]
        systems |= {command: shlex.split(command) for command in self.guests}
        runs = [(FLOOR, "", [*own, "floor"], next(iter(jobs.values())))]
        runs += [(name, kind, systems[name], jobs[kind]) for kind in jobs for name in systems]
        found: Measured = {}
        with tqdm(total=self.rounds * len(runs), unit="run", disable=None) as bar:
            for turn in range(self.rounds):
                for name, kind, command, job in random.Random(turn).sample(runs, len(runs)):
                    bar.set_description(f"{name} {kind}".strip(), refresh=False)
                    with Guest(command, job) as guest:
                        reply = guest.first_reply
                    if "lacks" not in reply:
                        name = reply.get("system", name)
                        found.setdefault((name, kind), []).append(rates(reply))
                    bar.update()
        return {(name, kind): found[name, kind] for name, kind in sorted(found, key=_rank)}


def rates(reply: Mapping[str, Any]) -> dict[str, float]:
    """Rows a second in steady state, and peak memory in MB.

    Args:
        reply: The reply of a trainer; the first quarter of its steps does not count.
    """
    steady = reply["step_seconds"][len(reply["step_seconds"]) // 4 :]
    return {
        "rows_per_second": BATCH * len(steady) / sum(steady),
        "peak_mb": reply["peak_bytes"] / 1e6,
    }


def result_rows(found: Measured) -> list[dict[str, Any]]:
    """Builds a result row for each system and method."""

    def column(key: tuple[str, str], name: str) -> list[float] | None:
        return [run[name] for run in found[key]] if key in found else None

    rows = []
    floor = column((FLOOR, ""), "rows_per_second")
    for (system, kind), runs in found.items():
        rate, peak = ([run[name] for run in runs] for name in ("rows_per_second", "peak_mb"))
        peft = column((PEFT, kind), "rows_per_second")
        peft_peak = column((PEFT, kind), "peak_mb")
        line: dict[str, Any] = {"system": system, "method": kind or None}
        line |= spread(rate, "rows_per_second")
        line["peak_mb"] = spread(peak, "peak_mb")["peak_mb"]
        line["it_over_floor"] = _over(rate, floor)
        line["faster_than_peft"] = _over(rate, peft)
        line["peak_over_peft"] = _over(peak, peft_peak)
        rows.append(line)
    return rows


def _over(measured: Sequence[float], other: Sequence[float] | None) -> float | None:
    return None if other is None else ratio(measured, other)


def _rank(key: tuple[str, str]) -> tuple[bool, str, bool, str]:
    """Sort key: the floor first, then by method, our system before the others."""
    name, kind = key
    return name != FLOOR, kind, name != OWN, name
