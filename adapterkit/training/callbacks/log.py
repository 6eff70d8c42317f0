"""The log of a run: a line of JSON for every few steps and for every epoch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from ..run import Run
from .base import Callback, Event

log = logging.getLogger("adapterkit")


class Log(Callback):
    """Adds entries to `run.log`: after every `training.log_steps` steps, and with the validation
    scores after every epoch. The main process also appends them to the run's file.

    A run that goes on from a checkpoint keeps those entries of its file that are of later steps:
    these steps are computed again with the same result.
    """

    type: ClassVar[str] = "log"
    order: ClassVar[int] = 42  # after the evaluation

    def __init__(self) -> None:
        self._failed = False

    def on_start(self, event: Event) -> None:
        entries: dict[Path, list[dict[str, Any]]] = {}
        for run in event.all_runs:
            if run.log_file is not None:
                last, found = _last_step(run), _read(run.log_file) if run.losses else ()
                own = (entry for entry in found if entry.get("run") == run.label)
                run.log += [entry for entry in own if entry["step"] > last]
                entries.setdefault(run.log_file, []).extend(run.log)
        if event.accelerator.is_main_process:
            for file, lines in entries.items():
                if lines or file.exists():  # of an earlier training
                    self._write(file, lines, "w")

    def on_step(self, event: Event) -> None:
        for run in event.runs:
            is_due = len(run.losses) % run.settings.log_steps == 0
            ends_epoch = len(run.losses) % run.batches.steps_per_epoch == 0
            if is_due and not ends_epoch and math.isfinite(run.losses[-1]):
                self._add(run, event, {})

    def on_epoch(self, event: Event) -> None:
        for run in event.runs:
            scores = run.history[-1].get("validation")
            self._add(run, event, {"validation": scores} if scores else {})

    def _add(self, run: Run, event: Event, scores: dict[str, Any]) -> None:
        step, last = len(run.losses), _last_step(run)
        if step <= last:
            return
        losses = run.losses[last:]
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": run.label,
            "step": step,
            "epoch": run.epoch,
            "loss": round(sum(losses) / len(losses), 6),
            "learning_rate": run.schedule.get_last_lr()[0],
            **scores,
        }
        run.log.append(entry)
        if run.log_file is not None and event.accelerator.is_main_process:
            self._write(run.log_file, [entry], "a")

    def _write(self, file: Path, entries: Sequence[dict[str, Any]], mode: str) -> None:
        """Writes entries; a disk that is full must not end the training, so it is reported once."""
        if self._failed:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open(mode, encoding="utf-8") as out:
                out.writelines(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)
        except OSError as error:
            self._failed = True
            log.warning(f"{file}: the log cannot be written ({error.strerror})")


def _last_step(run: Run) -> int:
    return run.log[-1]["step"] if run.log else 0


def _read(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of a file; a line that a killed process has not completed is left out."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            yield entry
