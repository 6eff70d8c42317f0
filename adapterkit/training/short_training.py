"""Warnings about a training that ends too early."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .run import Run

log = logging.getLogger("adapterkit")

FEW_STEPS = 20
"""Fewer optimiser steps than this are worth a warning."""


def warn_of_few_steps(runs: Iterable[Run]) -> None:
    """Warns, before the first step, of runs that will take very few."""
    for run in runs:
        if run.n_steps < FEW_STEPS:
            log.warning(
                f"{run.n_steps} optimiser steps in all will hardly teach anything; raise "
                f"training.epochs or lower training.batch_size ({run.settings.batch_size})"
            )


def warn_of_rising_scores(runs: Iterable[Run]) -> None:
    """Warns, after the last step, of runs whose last epoch was the best by the main validation
    metric."""
    for run in runs:
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
    scores = [entry.get("validation", {}) for entry in run.history]
    values = [found[metric] for found in scores if metric in found]
    if len(values) < 2 or values[-1] <= max(values[:-1]):
        return None
    return metric, max(values[:-1]), values[-1]
