"""The callback that ends hopeless trials of a search, and follows the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from .callbacks.base import Callback, Event


class Pruning(Callback):
    """Reports the validation score of every epoch, and stops a run that is given up.

    Args:
        judges: What decides about each run (`Judge`), by the run's label.
        follow: Called after every epoch with its number.

    Attributes:
        pruned: Labels of the runs that were stopped.
    """

    type: ClassVar[str] = "pruning"
    order: ClassVar[int] = 46  # after the evaluation, and after the log has its entry

    def __init__(self, judges: Mapping[str, Any], follow: Callable[[int], object]) -> None:
        self._judges = judges
        self._follow = follow
        self.pruned: set[str] = set()

    def on_epoch(self, event: Event) -> None:
        self._follow(max(run.epoch for run in event.runs))
        for run in event.runs:
            judge, metric = self._judges[run.label], run.trainable.initial.task.main_metric
            score = run.history[-1]["validation"].get(metric)
            if score is None:  # the rows leave it undefined after this epoch
                continue
            judge.report(score, step=run.epoch)
            if not run.ended and judge.should_prune():
                self.pruned.add(run.label)
                run.stop()
