"""The learning curve: an entry for every epoch in the history of a run."""

from __future__ import annotations

from typing import ClassVar

from .base import Callback, Event


class History(Callback):
    """Adds the entry of an epoch: epoch, step, mean training loss and learning rate."""

    type: ClassVar[str] = "history"
    order: ClassVar[int] = 10

    def on_epoch(self, event: Event) -> None:
        for run in event.runs:
            losses = run.losses[-run.batches.steps_per_epoch :]
            run.history.append(
                {
                    "epoch": run.epoch,
                    "step": len(run.losses),
                    "train_loss": round(sum(losses) / len(losses), 6),
                    "learning_rate": run.schedule.get_last_lr()[0],
                }
            )
