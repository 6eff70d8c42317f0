"""A training callback that measures how fast adapters are trained."""

from __future__ import annotations

import logging
import time
from typing import ClassVar

from adapterkit import Callback, Event

log = logging.getLogger("adapterkit")


class Speed(Callback):
    """Says at the end how many optimiser steps were taken and how long they took."""

    type: ClassVar[str] = "speed"
    order: ClassVar[int] = 95

    def __init__(self) -> None:
        self.steps = 0
        self.started = 0.0

    def on_start(self, event: Event) -> None:
        self.started = time.perf_counter()

    def on_step(self, event: Event) -> None:
        self.steps += len(event.runs)

    def on_end(self, event: Event) -> None:
        if event.show_progress:
            log.info(f"{self.steps} steps in {time.perf_counter() - self.started:.1f} s")
