"""What processes that train apart from each other know of each other: that they live, and how far
they are."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, ClassVar

from accelerate.state import PartialState
from torch import distributed
from torch._C._distributed_c10d import TCPStore

from ..inference.progress_bar import progress_bar
from .callbacks.base import Callback, Event
from .processes import connect_store, lost_process_error
from .recipe import Recipe
from .run import Run

BEAT = 0.5
"""Seconds between two signs of life."""

STATUS = "adapterkit/status/{}/{}"
"""Key of the status of a process in the store of the process group: training, process."""

_trainings = count()


class Peers(Callback):
    """Shows the others that this process lives, and ends it if one of them does not.

    A thread writes the status of this process into the store of the process group and reads the
    others': a process may be a long time between two steps, but a stopped one is noticed.

    Args:
        recipe: The first recipe; `training.timeout` bounds the silence of a process.
        runs: All runs, of which this process trains some; for the progress bar.
        show_progress: Show the bar, over the steps of all processes.
    """

    type: ClassVar[str] = "peers"

    def __init__(self, recipe: Recipe, runs: Sequence[Run], *, show_progress: bool) -> None:
        state = PartialState()
        self._process, self._n_processes = state.process_index, state.num_processes
        self._timeout = recipe.training.timeout
        self._training = next(_trainings)
        self._own: Sequence[Run] = ()
        self._has_ended = False
        self._statuses: dict[int, dict[str, Any]] = {}
        self._heard_at = dict.fromkeys(range(self._n_processes), time.monotonic())
        self._store_is_lost = False
        self._stop = threading.Event()
        total = sum(run.n_steps for run in runs)
        is_shown = show_progress and state.is_main_process
        self._bar = progress_bar(is_shown, total=total, unit="step")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, this process shows that it lives."""
        thread = threading.Thread(target=self._beat, name="peers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._bar.close()

    def on_start(self, event: Event) -> None:
        self._own = event.all_runs

    def on_step(self, event: Event) -> None:
        self._check()

    def wait(self) -> None:
        """Waits until all processes have ended their runs.

        Raises:
            ProcessError: One of them was lost.
        """
        self._has_ended = True
        while not all(self._ended(process) for process in self._heard_at):
            self._check()
            time.sleep(BEAT / 5)

    def _ended(self, process: int) -> bool:
        return bool(self._statuses.get(process, {}).get("ended"))

    def _check(self) -> None:
        """Checks that all others live.

        Raises:
            ProcessError: One of them does not.
        """
        now = time.monotonic()
        lost = [n for n, heard in self._heard_at.items() if now - heard > self._timeout]
        if self._store_is_lost or lost:
            raise lost_process_error(lost or [0], self._process, self._n_processes, self._timeout)

    def _beat(self) -> None:
        """Writes and reads statuses until the end."""
        try:
            store = connect_store(self._timeout)
            for number in count():
                self._write(store, number)
                for process in self._heard_at:
                    self._read(store, process)
                self._show()
                if self._stop.wait(BEAT):
                    break
        except distributed.DistError:
            self._store_is_lost = True

    def _write(self, store: TCPStore, number: int) -> None:
        steps = sum(len(run.losses) for run in self._own)
        status = {"number": number, "steps": steps, "ended": self._has_ended}
        store.set(STATUS.format(self._training, self._process), json.dumps(status))

    def _read(self, store: TCPStore, process: int) -> None:
        key = STATUS.format(self._training, process)
        status = json.loads(store.get(key)) if store.check([key]) else {}
        if status != self._statuses.get(process, {}):
            self._statuses[process] = status
            self._heard_at[process] = time.monotonic()

    def _show(self) -> None:
        self._bar.n = sum(status["steps"] for status in self._statuses.values())
        self._bar.refresh()
