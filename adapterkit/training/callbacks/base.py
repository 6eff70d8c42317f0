"""What every training callback is: it is called after a step, after an epoch and at the end.

A new callback is one new file in `training/callbacks/` with one class that extends `Callback`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from accelerate import Accelerator

from ...backbone.model import Backbone
from ...registry import discover
from ..run import Run


@dataclass(frozen=True)
class Event:
    """What a callback is called with.

    Attributes:
        runs: The runs that the event is about.
        all_runs: All runs of the training, also those that have ended.
        backbone: The backbone that they share.
        accelerator: Accelerate's, for what all processes compute together.
        show_progress: Whether a callback may write to the terminal: only on the main process, and
            only if the caller wants to see progress.
        is_apart: Whether other processes train other runs at the same time; this one is then the
            main process of its own.
    """

    runs: Sequence[Run]
    all_runs: Sequence[Run]
    backbone: Backbone
    accelerator: Accelerator
    show_progress: bool
    is_apart: bool = False


class Callback:
    """Something that is called while adapters are trained.

    One instance follows one training: one run, or several side by side. It is called on every
    process. What it wants to have saved with a run belongs into `run.callback_state[self.type]`.
    """

    type: ClassVar[str]
    """Name in the registry."""

    order: ClassVar[int] = 50
    """Callbacks of lower order are called first: the history has 10, evaluation 20, keep_best 30,
    patience 40, the log 42, tracking 44 and progress 90."""

    def on_start(self, event: Event) -> None:
        """Called once before the first step, with all runs; here a run can load its state."""

    def on_step(self, event: Event) -> None:
        """Called after an optimiser step, with the runs that took it in one forward."""

    def on_epoch(self, event: Event) -> None:
        """Called when runs have ended an epoch at the same step, with these runs.

        Modules are in evaluation mode. `run.stop()` ends a run here.
        """

    def on_end(self, event: Event) -> None:
        """Called once after the last step with all runs, also if an error has ended the training
        (`run.ended` is then false for some)."""


@cache
def callbacks() -> dict[str, type[Callback]]:
    """Every registered callback class by its type; each training has an instance of all."""
    return discover("adapterkit.training.callbacks", Callback)


def in_order(more: Sequence[Callback] = ()) -> list[Callback]:
    """A fresh instance of every registered callback, and further ones, in calling order."""
    registered = [kind() for kind in callbacks().values()]
    return sorted([*registered, *more], key=lambda callback: callback.order)
