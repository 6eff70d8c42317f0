"""The callback with which a training goes on from its checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar

from .callbacks.base import Callback, Event
from .checkpoint import Checkpoints

log = logging.getLogger("adapterkit")


class Resume(Callback):
    """Loads the newest checkpoint of every recipe before the first step.

    Args:
        checkpoints: Name of each recipe to its checkpoints.
    """

    type: ClassVar[str] = "resume"
    order: ClassVar[int] = 0

    def __init__(self, checkpoints: Mapping[str, Checkpoints]) -> None:
        self._checkpoints = checkpoints

    def on_start(self, event: Event) -> None:
        scaler = event.accelerator.scaler
        for name, checkpoints in self._checkpoints.items():
            found = checkpoints.read()
            if found is None:
                _log(event, f"{name}: there is no checkpoint, so the training begins")
                continue
            folder, content = found
            runs = [run for run in event.all_runs if run.name == name]
            for run in runs:
                run.load_state_dict(content["runs"][run.label])
            if scaler is not None and content["scaler"] is not None:
                scaler.load_state_dict(content["scaler"])
            done, steps = sum(len(r.losses) for r in runs), sum(r.n_steps for r in runs)
            _log(event, f"{name}: goes on after {done} of {steps} steps, from {folder}")


def _log(event: Event, message: str) -> None:
    if event.accelerator.is_main_process:
        log.info(message)
