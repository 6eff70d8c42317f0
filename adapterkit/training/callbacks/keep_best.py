"""The epoch that a run keeps."""

from __future__ import annotations

from typing import Any, ClassVar

from ..run import Best, Run
from .base import Callback, Event


class KeepBest(Callback):
    """Keeps the parameters of the best epoch; the last epoch is kept if `training.keep_best` is off
    or if there are no validation rows."""

    type: ClassVar[str] = "keep_best"
    order: ClassVar[int] = 30

    def on_epoch(self, event: Event) -> None:
        for run in event.runs:
            chooses = run.settings.keep_best and "validation" in run.history[-1]
            if not chooses or _is_best(run):
                run.best = Best(run.epoch, run.trainable.snapshot())


def _is_best(run: Run) -> bool:
    """Whether the last epoch has the best main metric so far; the lower loss decides a tie."""
    metric = run.trainable.initial.task.main_metric

    def rank(entry: dict[str, Any]) -> tuple[float, float]:
        return entry["validation"][metric], -entry["validation"]["loss"]

    return all(rank(run.history[-1]) > rank(entry) for entry in run.history[:-1])
