"""Early stopping."""

from __future__ import annotations

from typing import ClassVar

from .base import Callback, Event


class Patience(Callback):
    """Stops a run that has kept no new epoch for `training.patience` epochs."""

    type: ClassVar[str] = "patience"
    order: ClassVar[int] = 40

    def on_epoch(self, event: Event) -> None:
        for run in event.runs:
            best = 0 if run.best is None else run.best.epoch
            patience = run.settings.patience
            if patience is not None and len(run.history) - best >= patience:
                run.stop()
