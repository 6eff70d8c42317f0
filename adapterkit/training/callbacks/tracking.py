"""The callback that sends the log of a run to the trackers that its recipe names."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, ClassVar
from uuid import uuid4

from ...errors import AdapterkitError
from ...schema import dump
from ..run import Run
from ..trackers import TrackedRun, Tracker, start_tracker
from .base import Callback, Event

log = logging.getLogger("adapterkit")


class Tracking(Callback):
    """Sends each new entry of `run.log` to the trackers in `training.trackers`, from the main
    process. A run that goes on from a checkpoint goes on in the trackers as well."""

    type: ClassVar[str] = "tracking"
    order: ClassVar[int] = 44  # after the log

    def __init__(self) -> None:
        self._trackers: dict[str, list[Tracker]] = {}
        self._sent: dict[str, int] = {}

    def on_start(self, event: Event) -> None:
        if not event.accelerator.is_main_process:
            return
        for run in event.all_runs:
            self._sent[run.label] = len(run.log)
            self._trackers[run.label] = []
            for kind in run.settings.trackers:
                self._trackers[run.label].append(self._start(kind, run))

    def on_step(self, event: Event) -> None:
        self._send(event)

    def on_epoch(self, event: Event) -> None:
        self._send(event)

    def on_end(self, event: Event) -> None:
        trackers = [tracker for own in self._trackers.values() for tracker in own]
        for tracker in reversed(trackers):  # MLflow ends the run that was started last
            try:
                tracker.finish()
            except Exception as error:  # code of others, which may raise anything
                log.warning(_failure(tracker.kind, error))

    def _start(self, kind: str, run: Run) -> Tracker:
        """Starts a tracker, or goes on with the tracker's run that the checkpoint names.

        Raises:
            AdapterkitError: It cannot be started.
        """
        state = run.callback_state.setdefault(self.type, {})
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        started = state.setdefault("started", f"{now}-{uuid4().hex[:4]}")
        adapter = run.trainable.initial
        settings = {"method": dump(adapter.method), "training": dump(run.settings)}
        tracked = TrackedRun(run.label, started, run.settings.project, settings, state.get(kind))
        try:
            tracker = start_tracker(kind, tracked)
        except Exception as error:  # code of others, which may raise anything
            raise AdapterkitError(_failure(kind, error)) from None
        state[kind] = tracker.identity
        return tracker

    def _send(self, event: Event) -> None:
        for run in event.runs:
            if not self._trackers.get(run.label):
                continue
            for entry in run.log[self._sent[run.label] :]:
                for tracker in list(self._trackers[run.label]):
                    try:
                        tracker.log(_values(entry), entry["step"])
                    except Exception as error:  # as above; it must not end the training
                        log.warning(f"{_failure(tracker.kind, error)}; the training goes on")
                        self._trackers[run.label].remove(tracker)
            self._sent[run.label] = len(run.log)


def _values(entry: dict[str, Any]) -> dict[str, float]:
    """The numbers of an entry by their names in a tracker."""
    training = {f"train/{key}": entry[key] for key in ("loss", "learning_rate", "epoch")}
    scores = entry.get("validation", {})
    return training | {f"validation/{name}": value for name, value in scores.items()}


def _failure(kind: str, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"training.trackers: {kind} failed ({reason})"
