"""The epoch that a run keeps."""

from __future__ import annotations

from typing import ClassVar

from ..run import Best
from .base import Callback, Event


class KeepBest(Callback):
    """Keeps the parameters of the best epoch; the last epoch is kept if `training.keep_best` is off
    or if there are no validation rows."""

    type: ClassVar[str] = "keep_best"
    order: ClassVar[int] = 30

    def on_epoch(self, event: Event) -> None:
        for run in event.runs:
            if not run.settings.keep_best or run.best_epoch == run.epoch:
                run.best = Best(run.epoch, run.trainable.snapshot())
