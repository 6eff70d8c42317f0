"""The callback that writes checkpoints, from time to time and when a signal ends the training."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch

from ..errors import TrainingInterruptedError
from .callbacks.base import Callback, Event
from .checkpoint import Checkpoints
from .recipe import CheckpointSection
from .run import taken_steps

log = logging.getLogger("adapterkit")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Checkpointing(Callback):
    """Writes the checkpoints of every recipe of a training.

    The main process writes them. After SIGINT or SIGTERM to any process, all processes end after
    the same step, with a checkpoint; a second signal ends the process at once.

    Args:
        checkpoints: Name of each recipe to its checkpoints.
        sections: Name of each recipe to when they are due.
    """

    type: ClassVar[str] = "checkpointing"
    order: ClassVar[int] = 80  # after callbacks that change what belongs to the step

    def __init__(
        self, checkpoints: Mapping[str, Checkpoints], sections: Mapping[str, CheckpointSection]
    ) -> None:
        self._checkpoints = checkpoints
        self._sections = sections
        self._written_at: dict[str, float] = {}
        self._without: set[str] = set()
        self._handlers: dict[signal.Signals, Any] = {}
        self._received: signal.Signals | None = None

    def on_start(self, event: Event) -> None:
        self._written_at = dict.fromkeys(self._checkpoints, time.monotonic())
        begun = {run.name for run in event.all_runs if run.losses}
        for name, checkpoints in self._checkpoints.items():
            newest = checkpoints.newest()
            if newest is not None and name not in begun and event.accelerator.is_main_process:
                log.info(f"{name}: --resume would go on from an earlier training, {newest}")
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # SIGINT in a background job
                self._handlers[number] = signal.signal(number, self._receive)

    def on_step(self, event: Event) -> None:
        self._end_if_signalled(event)
        if event.accelerator.is_main_process:
            for name in dict.fromkeys(run.name for run in event.runs):
                if self._is_due(name, event):
                    self._write(name, event)

    def on_epoch(self, event: Event) -> None:
        self._end_if_signalled(event)

    def on_end(self, event: Event) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if self._received is not None:  # after the last step: the training has ended by itself
            signal.raise_signal(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        signal.signal(number, self._handlers[self._received])

    def _end_if_signalled(self, event: Event) -> None:
        """Ends the training if any process has received a signal.

        Raises:
            TrainingInterruptedError: It has.
        """
        received = self._received_by_any(event)
        if received is None:
            return
        self._received = None
        folders = []
        if event.accelerator.is_main_process:
            written = (self._write(name, event) for name in self._checkpoints)
            folders = [str(folder) for folder in written if folder is not None]
        how = f", checkpoint {', '.join(folders)}; " if folders else "; "
        how += "the same command with --resume goes on (resume=True in Python)"
        if event.accelerator.is_main_process and not folders:
            how = ", without a checkpoint"
        raise TrainingInterruptedError(
            f"Interrupted by {received.name} after {taken_steps(event.all_runs)}{how}", received
        )

    def _received_by_any(self, event: Event) -> signal.Signals | None:
        """The signal that this process, or one of the others, has received."""
        accelerator = event.accelerator
        if accelerator.num_processes == 1:
            return self._received
        flags = torch.tensor([float(number == self._received) for number in SIGNALS])
        summed = accelerator.reduce(flags.to(accelerator.device), "sum").tolist()
        return next((n for n, count in zip(SIGNALS, summed, strict=True) if count), None)

    def _is_due(self, name: str, event: Event) -> bool:
        section = self._sections[name]
        if section.steps is not None and any(
            len(run.losses) % section.steps == 0 for run in event.runs if run.name == name
        ):
            return True
        passed = time.monotonic() - self._written_at[name]
        return bool(section.minutes) and passed >= 60.0 * section.minutes

    def _write(self, name: str, event: Event) -> Path | None:
        """Writes the checkpoint of a recipe, unless one of its runs has failed or another process
        writes checkpoints of that name."""
        runs = [run for run in event.all_runs if run.name == name]
        if any(run.fault is not None for run in runs):
            return None
        scaler = event.accelerator.scaler
        content = {
            "runs": {run.label: run.state_dict() for run in runs},
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        folder = self._checkpoints[name].write(content)
        self._written_at[name] = time.monotonic()
        if folder is None and name not in self._without:
            self._without.add(name)
            log.warning(
                f"{name}: another process writes checkpoints of this name into the store, so this "
                "one writes none"
            )
        return folder
