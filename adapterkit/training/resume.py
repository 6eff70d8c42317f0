"""The callback with which a training goes on from its checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from .callbacks.base import Callback, Event
from .checkpoint import Checkpoints

log = logging.getLogger("adapterkit")

Saved = list[tuple[Path, dict[str, Any]]]
"""Folder and content of the checkpoints of a run, the newest first."""


class Resume(Callback):
    """Loads a checkpoint of every run before the first step.

    Runs that shared their steps go on from checkpoints that were written after the same step: the
    newest such. If there are none, each goes on from its own newest one.

    Args:
        checkpoints: Label of each run to its checkpoints.
    """

    type: ClassVar[str] = "resume"
    order: ClassVar[int] = 0

    def __init__(self, checkpoints: Mapping[str, Checkpoints]) -> None:
        self._checkpoints = checkpoints

    def on_start(self, event: Event) -> None:
        saved = {run.label: self._checkpoints[run.label].read() for run in event.all_runs}
        steps = _common_steps(saved)
        for run in event.all_runs:
            label, found = run.label, saved[run.label]
            if not found:
                _log(event, f"{label}: there is no checkpoint, so the training begins")
                continue
            same = (one for one in found if one[1]["steps"] == steps)
            folder, content = next(same, found[0])
            run.load_state_dict(content["run"])
            scaler = event.accelerator.scaler
            if scaler is not None and content["scaler"] is not None:
                scaler.load_state_dict(content["scaler"])
            done = f"{len(run.losses)} of {run.n_steps} steps"
            _log(event, f"{label}: goes on after {done}, from {folder}")


def _common_steps(saved: Mapping[str, Saved]) -> dict[str, int] | None:
    """The steps of all runs at the newest moment of which each run has a checkpoint."""
    first, *others = [[content["steps"] for _, content in found] for found in saved.values()]
    return next((steps for steps in first if all(steps in other for other in others)), None)


def _log(event: Event, message: str) -> None:
    if event.accelerator.is_main_process:
        log.info(message)
