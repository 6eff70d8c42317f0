"""Lanes: threads that compute packed batches at the same time, each on CPU cores of its own.

Two batches on one core each are done sooner than one after the other on both cores: no operator
waits until the other core has finished its half, and the many small products of adapters, which use
one core, run on all cores at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import ParamSpec, TypeVar
from weakref import WeakSet

import torch

MOST = 4
"""Most lanes by default. With more cores each lane has several: batches would be too small."""

LEAST_TOKENS = 192
"""Least tokens of a batch in one of several lanes: below, the fixed cost of a forward dominates."""

SWITCH_SECONDS = 5e-4
"""Longest time that a thread keeps the interpreter lock while another waits for it. A lane needs
the lock for microseconds, to start its next product; most products are shorter than Python's
default of 5 ms. A much shorter time forces switches to threads for which no core is free."""

T = TypeVar("T")
Item = TypeVar("Item")
P = ParamSpec("P")


class WorkerLanes:
    """A pool of threads that share the CPU cores.

    Args:
        n: Number of lanes.
        threads: Number of torch threads in each lane.
    """

    def __init__(self, n: int, threads: int) -> None:
        self.n = n
        self.threads = threads
        self._pool = self._start() if n > 1 else None
        _all_lanes.add(self)

    def _start(self) -> ThreadPoolExecutor:
        """Starts the threads, and shortens the time for which one keeps the interpreter lock."""
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
        # torch's number of threads belongs to the thread that sets it, but new threads start with
        # the number that was set last, so it is restored when every lane has its own.
        before, started = torch.get_num_threads(), Barrier(self.n + 1)

        def set_threads() -> None:
            torch.get_num_threads()  # the first call in a thread resets the number
            torch.set_num_threads(self.threads)
            started.wait()

        pool = ThreadPoolExecutor(self.n, thread_name_prefix="lane", initializer=set_threads)
        for _ in range(self.n):
            pool.submit(int)
        started.wait()
        torch.set_num_threads(before)
        return pool

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Starts some work in the next free lane, which is never the calling thread."""
        if self._pool is None:
            self._pool = self._start()
        return self._pool.submit(work, *args, **kwargs)

    def map(self, work: Callable[[Item], T], parts: Sequence[Item]) -> Iterator[T]:
        """The results for some parts, in their order. A single lane, and a single part, are
        computed by the calling thread."""
        if self._pool is None or self.n == 1 or len(parts) == 1:
            return map(work, parts)
        return self._pool.map(work, parts)

    def forget_threads(self) -> None:
        """Becomes a single lane of one thread, in a forked process: it has none of the threads."""
        self.n = self.threads = 1
        self._pool = None

    def close(self) -> None:
        """Lets the threads end when their work is done."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    @contextmanager
    def single_threaded(self) -> Iterator[None]:
        """Gives the calling thread one torch thread, if there are several lanes.

        Between two maps, because torch's helper threads stay awake for a while and would take the
        cores of the next map.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(threads if self.n == 1 else 1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def budget(self, sizes: Sequence[int], max_tokens: int) -> int:
        """Most tokens of a batch, so that all lanes get about the same number of tokens.

        Args:
            sizes: Tokens of each row.
            max_tokens: Most tokens of any batch.
        """
        if self.n == 1:
            return max_tokens
        even = sum(sizes) // self.n + max(sizes, default=0)
        return min(max_tokens, max(even, LEAST_TOKENS))


_all_lanes: WeakSet[WorkerLanes] = WeakSet()

SERIAL = WorkerLanes(1, 1)
"""One batch after the other."""


def _after_fork() -> None:
    """Lets a forked process compute, in one thread.

    It has a copy of the memory but none of the threads, neither of lanes nor of OpenMP: work that
    waits for one of them would never end.
    """
    torch.set_num_threads(1)
    for lanes in _all_lanes:
        lanes.forget_threads()
    _lanes.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def lanes_of(device: torch.device) -> WorkerLanes:
    """The lanes that this process shares: of its torch threads on a CPU, else a single one."""
    return _lanes(torch.get_num_threads()) if device.type == "cpu" else SERIAL


@cache
def _lanes(threads: int) -> WorkerLanes:
    n = min(threads, MOST)
    return WorkerLanes(n, threads // n)


def server_lanes(
    device: torch.device, n: int | None = None, cores: int | None = None
) -> WorkerLanes:
    """New lanes that share CPU cores.

    Args:
        device: Where batches are computed. There is a single lane on anything but a CPU.
        n: Number of lanes on a CPU; one a core, up to `MOST`, if None.
        cores: Number of cores; all that this process may use if None.
    """
    if cores is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    n = (n or min(MOST, cores)) if device.type == "cpu" else 1
    return WorkerLanes(n, max(1, cores // n))
