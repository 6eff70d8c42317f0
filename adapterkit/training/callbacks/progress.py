"""The progress bar, and a line for every epoch."""

from __future__ import annotations

from typing import Any, ClassVar

from ...inference.progress_bar import print_line, progress_bar
from .base import Callback, Event


class Progress(Callback):
    """Shows a bar over the steps of all runs (on a terminal), and writes a line an epoch. If other
    processes train other runs, it shows no bar: there is one over the steps of all processes."""

    type: ClassVar[str] = "progress"
    order: ClassVar[int] = 90

    def __init__(self) -> None:
        self._bar: Any = None

    def on_start(self, event: Event) -> None:
        self._bar = progress_bar(
            event.show_progress and not event.is_apart,
            total=sum(run.n_steps for run in event.all_runs),
            initial=sum(len(run.losses) for run in event.all_runs),
            unit="step",
        )

    def on_step(self, event: Event) -> None:
        last = event.runs[-1]
        loss = sum(run.losses[-1] for run in event.runs) / len(event.runs)
        self._bar.set_description(f"epoch {last.epoch}/{last.epochs}", refresh=False)
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update(len(event.runs))

    def on_epoch(self, event: Event) -> None:
        if not event.show_progress:
            return
        for run in event.runs:
            entry = run.history[-1]
            is_one_of_several = event.is_apart or len(event.all_runs) > 1
            label = f"{run.label}, " if is_one_of_several else ""
            line = f"{label}epoch {entry['epoch']}: training loss {entry['train_loss']:.4f}"
            scores = entry.get("validation", {})
            if scores:
                values = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
                line += f"; validation {values}"
            print_line(line)

    def on_end(self, event: Event) -> None:
        if self._bar is not None:
            self._bar.close()
