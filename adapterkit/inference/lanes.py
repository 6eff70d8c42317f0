"""Lanes: packed batches computed side by side on a CPU.

Two batches on a core each are done sooner than one after the other on both: no operator waits for
the other core to finish its half, and the many small products of adapters, which one core computes
alone, are computed on all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

MOST = 4
"""Lanes at most: with many cores each lane has several, for batches would become too small."""

LEAST_TOKENS = 192
"""Tokens that are worth a lane: below, what a forward costs whatever its size counts for more."""

SWITCH = 2e-5
"""Seconds that a thread keeps the interpreter's lock while another waits for it. A lane wants it
for microseconds, to begin its next product; Python's 5 ms are longer than most products take."""

T = TypeVar("T")
P = TypeVar("P")


def take_turns() -> None:
    """Lets the threads of this process have the interpreter's lock as soon as lanes want it."""
    sys.setswitchinterval(min(SWITCH, sys.getswitchinterval()))


class WorkerLanes:
    """Threads that share the cores among them, and the interpreter in short turns.

    Args:
        n: How many.
        threads: Of torch, for each lane.
    """

    def __init__(self, n: int, threads: int) -> None:
        self.n = n
        self._pool: ThreadPoolExecutor | None = None
        if n == 1:
            return
        take_turns()
        # torch's number of threads belongs to the thread that sets it, but the last one set is
        # also what threads to come begin with: that is put back when every lane has its own.
        before, begun = torch.get_num_threads(), Barrier(n + 1)

        def begin() -> None:
            torch.get_num_threads()  # a thread's first look would undo what was set before it
            torch.set_num_threads(threads)
            begun.wait()

        self._pool = ThreadPoolExecutor(n, thread_name_prefix="lane", initializer=begin)
        for _ in range(n):
            self._pool.submit(int)
        begun.wait()
        torch.set_num_threads(before)

    def map(self, work: Callable[[P], T], parts: Sequence[P]) -> Iterator[T]:
        """The work on each part, in order of the parts; one part is done where it is asked for."""
        if self._pool is None or len(parts) == 1:
            return map(work, parts)
        return self._pool.map(work, parts)

    @contextmanager
    def single_threaded(self) -> Iterator[None]:
        """What the asking thread computes between two maps, on one core where there are lanes:
        threads that help it stay awake for a while, on the cores of the next map."""
        threads = torch.get_num_threads()
        torch.set_num_threads(threads if self.n == 1 else 1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def budget(self, sizes: Sequence[int], max_tokens: int) -> int:
        """Most tokens of a batch, so that all lanes have as much to do where sizes allow it."""
        if self.n == 1:
            return max_tokens
        share = sum(sizes) // self.n + max(sizes, default=0)
        return min(max_tokens, max(share, LEAST_TOKENS))


SERIAL = WorkerLanes(1, 1)
"""One batch after the other."""


def lanes_of(device: torch.device) -> WorkerLanes:
    """The lanes of this process: its torch threads on a CPU, one lane on anything else."""
    return _lanes(torch.get_num_threads()) if device.type == "cpu" else SERIAL


@cache
def _lanes(threads: int) -> WorkerLanes:
    n = min(threads, MOST)
    return WorkerLanes(n, threads // n)
