"""Threads that work for many tenants in the order of a fair queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

from ...errors import OverloadedError
from .queue import Queue, QueuedPart, QueuedRequest, Usage, timeout_error

P = TypeVar("P")
R = TypeVar("R")

DOMINANT_PART = 4
"""A dominant tenant gets this part of a batch's tokens at a time: a request of another one that
arrives meanwhile shares the cores with it until the batch ends."""

Submit = Callable[..., Future[Any]]
"""Starts some work with its arguments in a thread, as `Executor.submit`."""


class FairPool(Generic[P, R]):
    """Threads that do the parts of many tenants' requests in a fair order.

    A part is the smallest piece of work that is not interrupted. Before each part is taken, the
    deadline of its request is checked and whether its caller still waits.

    While a single tenant dominates the pool and other tenants are active, its parts are done in
    batches of their own, which start only while no batch of the others is done, and it may not use
    the last free thread. So the requests of the others hardly notice it.

    Args:
        work: Does a batch of parts in a thread. It returns the result of each, or the error that
            prevented it, which fails the part's request.
        submit: Starts work in a thread.
        n_threads: Number of threads.
        batch_tokens: Most tokens of a batch; a single part may exceed it.
        queue_tokens: Most tokens that may wait.
        on_batch: Called with the number of parts, their tokens and the seconds of each batch.

    Attributes:
        queue: The parts that wait.
        tokens_per_second: Recent mean of one thread.
        tokens_in_work: Tokens of the batches that are being done.
    """

    def __init__(
        self,
        work: Callable[[Sequence[P]], Sequence[R | Exception]],
        submit: Submit,
        n_threads: int,
        batch_tokens: int,
        queue_tokens: int,
        on_batch: Callable[[int, int, float], None] | None = None,
    ) -> None:
        self.queue = Queue(queue_tokens)
        self.tokens_per_second = 0.0
        self.tokens_in_work = 0
        self._work = work
        self._submit = submit
        self._n_threads = n_threads
        self._batch_tokens = batch_tokens
        self._on_batch = on_batch
        self._running: dict[Future[Any], set[str]] = {}
        self._usage = Usage()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fill_scheduled = False

    def start(self) -> None:
        """Starts to work; must be called on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._fill_threads()

    @property
    def is_idle(self) -> bool:
        """Whether no part waits or is being done."""
        return not self.queue.parts and not self._running

    def check_room(self, tenant: str) -> None:
        """Refuses a tenant whose next request would be removed from the queue at once.

        Raises:
            OverloadedError: The queue is full.
        """
        if self.queue.is_full_for(tenant):
            raise self._overloaded()

    async def run(self, request: QueuedRequest[P, R]) -> list[R]:
        """Does a request.

        Returns:
            The result of each part.

        Raises:
            OverloadedError: The queue is full.
            UnavailableError: The deadline has passed.
        """
        for removed in self.queue.add(request):
            removed.fail(self._overloaded())
        self._schedule_fill()
        seconds = request.deadline - time.monotonic()
        timer = asyncio.get_running_loop().call_later(seconds, request.fail, timeout_error())
        try:
            return await request.done
        finally:  # done, refused, timed out, or cancelled because the caller disconnected
            timer.cancel()
            self.queue.remove(request)

    def _overloaded(self) -> OverloadedError:
        rate = self._n_threads * self.tokens_per_second
        wait = self.queue.tokens / rate if rate else 1.0
        return OverloadedError("too many requests are waiting; try again later", min(wait, 60.0))

    def _schedule_fill(self) -> None:
        """Fills the threads in the next turn of the event loop, so that requests that arrive
        together are done together."""
        if self._loop is not None and not self._fill_scheduled:
            self._fill_scheduled = True
            self._loop.call_soon(self._fill_threads)

    def _fill_threads(self) -> None:
        """Gives every free thread its next batch."""
        self._fill_scheduled = False
        while len(self._running) < self._n_threads:
            taken = self._take()
            if not taken:
                return
            began = time.monotonic()
            for part in taken:
                part.request.started = part.request.started or began
                self._usage.add(part.request.tenant, part.tokens)
                self.tokens_in_work += part.tokens
            batch = self._submit(self._work, [part.request.parts[part.index] for part in taken])
            self._running[batch] = {part.request.tenant for part in taken}
            batch.add_done_callback(partial(self._notify_loop, taken, began))

    def _take(self) -> list[QueuedPart]:
        """The parts of the next batch; none if nobody may use a free thread."""
        dominant = self._usage.dominant()
        taken = self.queue.take(self._batch_tokens, excluded=dominant)
        if taken or dominant is None or not self._may_start(dominant):
            return taken
        return self.queue.take(self._batch_tokens // DOMINANT_PART)

    def _may_start(self, dominant: str) -> bool:
        """Whether the dominant tenant may use a free thread."""
        n_own = sum(dominant in tenants for tenants in self._running.values())
        leaves_one = n_own == 0 or len(self._running) < self._n_threads - 1
        return n_own == len(self._running) and leaves_one

    def _notify_loop(self, taken: Sequence[QueuedPart], began: float, batch: Future[Any]) -> None:
        """Passes a finished batch from its thread to the event loop."""
        seconds = time.monotonic() - began
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._finish_batch, taken, seconds, batch)

    def _finish_batch(
        self, taken: Sequence[QueuedPart], seconds: float, batch: Future[Any]
    ) -> None:
        del self._running[batch]
        self._fill_threads()  # first, so that no thread waits while answers are sent
        tokens = sum(part.tokens for part in taken)
        self.tokens_in_work -= tokens
        rate = tokens / seconds
        before = self.tokens_per_second
        self.tokens_per_second = 0.9 * before + 0.1 * rate if before else rate
        if self._on_batch is not None:
            self._on_batch(len(taken), tokens, seconds)
        for part, result in zip(taken, batch.result(), strict=True):
            part.request.finish_part(part.index, result)
