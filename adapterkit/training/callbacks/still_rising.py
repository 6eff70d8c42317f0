"""A warning about a training that ended too early."""

from __future__ import annotations

import logging
from typing import ClassVar

from ..run import Run
from .base import Callback, Event

log = logging.getLogger("adapterkit")


class StillRising(Callback):
    """Warns of a run whose last epoch was its best by the main validation metric."""

    type: ClassVar[str] = "still_rising"
    order: ClassVar[int] = 95

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
