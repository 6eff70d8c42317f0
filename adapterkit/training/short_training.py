"""Warnings about a training that ends too early."""

from __future__ import annotations

import logging
from typing import ClassVar

from ..run import Run
from .base import Callback, Event

log = logging.getLogger("adapterkit")

FEW_STEPS = 20
"""Fewer optimiser steps than this are worth a warning."""


class TooShort(Callback):
    """Warns of a run of very few steps, and of one whose last epoch was its best by the main
    validation metric."""

    type: ClassVar[str] = "too_short"
    order: ClassVar[int] = 95

    def on_start(self, event: Event) -> None:
        if not event.accelerator.is_main_process:
            return
        for run in {run.name: run for run in event.all_runs}.values():  # members differ in seeds
            if run.n_steps < FEW_STEPS:
                log.warning(
                    f"{run.n_steps} optimiser steps in all will hardly teach anything; raise "
                    f"training.epochs or lower training.batch_size ({run.settings.batch_size})"
                )

    def on_end(self, event: Event) -> None:
        if not event.accelerator.is_main_process:
            return
        for run in event.all_runs:
            if run.ended and run.fault is None and (rise := _last_rise(run)) is not None:
                metric, before, after = rise
                log.warning(
                    f"{run.label}: validation {metric} still rose in the last epoch ({before:.4f} "
                    f"to {after:.4f}); more epochs may help (training.epochs)"
                )


def _last_rise(run: Run) -> tuple[str, float, float] | None:
    """The main metric, its best value before the last epoch and that of the last epoch, which is
    higher; None if it is not."""
    metric = run.trainable.initial.task.main_metric
    values = [entry["validation"][metric] for entry in run.history if "validation" in entry]
    if len(values) < 2 or values[-1] <= max(values[:-1]):
        return None
    return metric, max(values[:-1]), values[-1]
