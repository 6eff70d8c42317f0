"""Scores of the validation rows after every epoch."""

from __future__ import annotations

from typing import ClassVar

from ..evaluation import score, split_outputs
from .base import Callback, Event


class Evaluation(Callback):
    """Adds `validation` to the entry of an epoch: loss and metrics of the validation rows.

    The rows of all runs that have ended an epoch are computed together, and by all processes.
    """

    type: ClassVar[str] = "evaluation"
    order: ClassVar[int] = 20

    def on_epoch(self, event: Event) -> None:
        having = [
            (run, run.trainable.adapter, run.validation)
            for run in event.runs
            if run.validation is not None
        ]
        pairs = [(adapter, split) for _, adapter, split in having]
        found = split_outputs(event.accelerator, event.backbone, pairs)
        for (run, adapter, split), outputs in zip(having, found, strict=True):
            # As after training: a threshold that will be tuned may favour another epoch.
            task = adapter.task.tune(outputs, split.examples, split.targets)
            run.history[-1]["validation"] = score(task, split, outputs)
