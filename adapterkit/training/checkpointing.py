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
from .run import Run, taken_steps
from .training_section import CheckpointSection

log = logging.getLogger("adapterkit")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

REPEATED = 1.0
"""Seconds in which a further signal is the first one again, sent by a launcher."""


class Checkpointing(Callback):
    """Writes the checkpoints of every run of a training.

    Runs that share steps are saved after the same step, as often as the first of them is due. Each
    checkpoint says at which step the others were, so that they go on together as they began.

    The main process writes them. After SIGINT or SIGTERM to any process, all processes end after
    the same step, with a checkpoint; a second signal ends the process at once. A launcher passes on
    what the terminal has sent to all processes, so one that soon follows is the same signal.

    Args:
        checkpoints: Label of each run to its checkpoints.
        sections: Label of each run to when they are due.
    """

    type: ClassVar[str] = "checkpointing"
    order: ClassVar[int] = 80  # after callbacks that change what belongs to the step

    def __init__(
        self, checkpoints: Mapping[str, Checkpoints], sections: Mapping[str, CheckpointSection]
    ) -> None:
        self._checkpoints = checkpoints
        self._sections = sections
        self._written_at = 0.0
        self._written: dict[str, int] = {}
        self._without: set[str] = set()
        self._handlers: dict[signal.Signals, Any] = {}
        self._received: signal.Signals | None = None
        self._received_at = 0.0
        self._is_interrupted = False

    def on_start(self, event: Event) -> None:
        self._written_at = time.monotonic()
        for run in event.all_runs:
            newest = self._checkpoints[run.label].newest()
            if newest is not None and not run.losses and event.accelerator.is_main_process:
                log.info(f"{run.label}: --resume would go on from an earlier training, {newest}")
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # SIGINT in a background job
                self._handlers[number] = signal.signal(number, self._receive)

    def on_step(self, event: Event) -> None:
        self._end_if_signalled(event)
        if event.accelerator.is_main_process and self._is_due(event):
            self._write(event)

    def on_epoch(self, event: Event) -> None:
        self._end_if_signalled(event)

    def on_end(self, event: Event) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if event.is_apart and all(run.ended for run in event.all_runs):
            self._write(event)  # the other processes may be interrupted while this one waits
        if self._received is not None and not self._is_interrupted:  # after the last step
            signal.raise_signal(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._received_at = signal.Signals(number), now
        elif now - self._received_at > REPEATED:
            self._is_interrupted = True
            signal.signal(number, self._handlers[signal.Signals(number)])
            signal.raise_signal(number)

    def _end_if_signalled(self, event: Event) -> None:
        """Ends the training if any process has received a signal.

        Raises:
            TrainingInterruptedError: It has.
        """
        received = self._received_by_any(event)
        if received is None:
            return
        self._is_interrupted = True
        folders = self._write(event) if event.accelerator.is_main_process else []
        how = f", checkpoint {', '.join(map(str, folders))}; " if folders else "; "
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
        event.backbone.settle()  # a callback may have computed on one of the processes
        flags = torch.tensor([float(number == self._received) for number in SIGNALS])
        summed = accelerator.reduce(flags.to(accelerator.device), "sum").tolist()
        return next((n for n, count in zip(SIGNALS, summed, strict=True) if count), None)

    def _is_due(self, event: Event) -> bool:
        """Whether one of the runs that took a step is to be saved, and was not after this step."""
        if _steps(event) == self._written:
            return False
        sections = [(run, self._sections[run.label]) for run in event.runs]
        if any(own.steps and len(run.losses) % own.steps == 0 for run, own in sections):
            return True
        passed = time.monotonic() - self._written_at
        return any(own.minutes and passed >= 60.0 * own.minutes for _, own in sections)

    def _write(self, event: Event) -> list[Path]:
        """Writes a checkpoint of every run, except for those that have failed or whose checkpoints
        another process writes; returns the folders."""
        scaler = event.accelerator.scaler
        scale = scaler.state_dict() if scaler is not None else None
        steps = _steps(event)
        folders = []
        for run in event.all_runs:
            if run.label not in steps:
                continue
            content = {"run": run.state_dict(), "steps": steps, "scaler": scale}
            folder = self._checkpoints[run.label].write(content)
            if folder is not None:
                folders.append(folder)
            else:
                self._warn_once(run)
        self._written, self._written_at = steps, time.monotonic()
        return folders

    def _warn_once(self, run: Run) -> None:
        if run.label not in self._without:
            self._without.add(run.label)
            log.warning(
                f"{run.label}: another process writes checkpoints of this name into the store, so "
                "this one writes none"
            )


def _steps(event: Event) -> dict[str, int]:
    """The steps that each run has taken, except for those that have failed."""
    return {run.label: len(run.losses) for run in event.all_runs if run.fault is None}
