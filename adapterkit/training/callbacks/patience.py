"""Early stopping."""

from __future__ import annotations

from typing import ClassVar

from .base import Callback, Event


class Patience(Callback):
    """Stops a run of which no epoch was better for `training.patience` epochs, whether or not the
    best one is kept."""

    type: ClassVar[str] = "patience"
    order: ClassVar[int] = 40

    def on_epoch(self, event: Event) -> None:
        for run in event.runs:
            patience = run.settings.patience
            if patience is not None and run.epoch - run.best_epoch >= patience:
                run.stop()
