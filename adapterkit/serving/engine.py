"""The engine: requests of many tenants queued fairly and answered in mixed packed batches.

Batches are computed in lanes, side by side; a tenant that takes most of the engine while others are
about leaves them the last lane, so that they need not wait for its batches to end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..errors import OverloadedError, UnavailableError
from ..inference.lanes import WorkerLanes
from ..inference.pipeline import answer_rows, encode_requests
from ..tasks.types import Answer, Example, Text
from .queue import Queue, QueuedRequest, QueuedRow, Usage, too_late

SHORT = 1000
"""Characters that are tokenised sooner than another thread could be asked to."""


log = logging.getLogger("adapterkit")

Found = list[Answer | Exception]
"""What a lane found: an answer for each row, or why there is none."""


class EngineObserver:
    """What the engine tells of its work; nothing by default."""

    def stage(self, name: str, seconds: float) -> None:
        """The request at hand passed a stage: tokenise, queue or answer."""

    def batch(self, rows: int, tokens: int, seconds: float) -> None:
        """A batch was answered."""


class Engine:
    """Answers requests of many tenants over one backbone, one mixed packed batch at a time.

    Args:
        backbone: The backbone.
        max_batch_tokens: Most tokens of a batch: more is more throughput, less is less waiting.
        max_queue_tokens: Most tokens that wait.
        lanes: Compute batches at the same time; closed by `drain`.
        watch: Told of every batch and request, for metrics.
    """

    def __init__(
        self,
        backbone: Backbone,
        max_batch_tokens: int,
        max_queue_tokens: int,
        lanes: WorkerLanes,
        watch: EngineObserver | None = None,
    ) -> None:
        self.backbone = backbone
        self.max_batch_tokens = max_batch_tokens
        self.queue = Queue(max_queue_tokens)
        self.rate = 0.0
        self._watch = watch or EngineObserver()
        self._closing = False
        self._lanes = lanes
        self._running: dict[Future[Found], set[str]] = {}
        self._usage = Usage()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filling = False
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="read")

    @property
    def closing(self) -> bool:
        """Whether it takes no more requests."""
        return self._closing

    def start(self) -> None:
        """Begins to answer; called on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._fill()

    async def ask(
        self,
        tenant: str,
        rows: Sequence[tuple[Adapter | None, Text]],
        timeout: float,
        charge: Callable[[list[Example]], None] | None = None,
    ) -> list[Answer]:
        """Answers rows that may mix adapters, methods and tasks.

        Args:
            tenant: Whose share of the engine this takes.
            rows: Adapter (None: the plain backbone) and text of each row, at least one.
            timeout: Seconds after which nobody waits for the answer.
            charge: Called with the tokenised rows before they are queued; what it raises ends
                the request.

        Returns:
            An answer for each row, in order.

        Raises:
            DataError: A text is empty or not a text.
            OverloadedError: The queue is full.
            UnavailableError: The engine is closing, or the time was up.
        """
        if self._closing:
            raise UnavailableError("the server is closing")
        if self.queue.is_full_for(tenant):
            raise self._overloaded()
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        owners, texts = [adapter for adapter, _ in rows], [text for _, text in rows]
        if all(isinstance(text, str) for text in texts) and sum(map(len, texts)) <= SHORT:
            examples = encode_requests(self.backbone, owners, texts)
        else:
            examples = await loop.run_in_executor(
                self._readers, encode_requests, self.backbone, owners, texts
            )
        self._watch.stage("tokenise", time.monotonic() - began)
        if charge is not None:
            charge(examples)
        job = QueuedRequest(
            tenant, list(zip(owners, examples, strict=True)), began + timeout, loop.create_future()
        )
        for loser in self.queue.add(job):
            loser.end(self._overloaded())
        if self._loop is not None and not self._filling:
            # Not at once: requests that came together are answered together.
            self._filling = True
            self._loop.call_soon(self._fill)
        timer = loop.call_at(loop.time() + timeout, job.end, too_late())
        try:
            answers = await job.done
        finally:  # answered, refused, too late, or the client hung up
            timer.cancel()
            self.queue.leave(job)
        done = time.monotonic()
        self._watch.stage("queue", (job.begun or done) - job.arrived)
        self._watch.stage("answer", done - (job.begun or done))
        return answers

    async def drain(self) -> None:
        """Takes no more requests, answers those that are here, and ends."""
        self._closing = True
        while self.queue.rows or self._running:
            await asyncio.sleep(0.01)
        self._lanes.close()
        self._readers.shutdown(wait=False)

    def _overloaded(self) -> OverloadedError:
        wait = self.queue.tokens / (self._lanes.n * self.rate) if self.rate else 1.0
        return OverloadedError("too many requests are waiting; try again later", min(wait, 60.0))

    def _fill(self) -> None:
        """Gives every free lane its next batch."""
        self._filling = False
        while len(self._running) < self._lanes.n:
            taken = self.queue.take(self.max_batch_tokens, self._barred())
            if not taken:
                return
            began = time.monotonic()
            for waiting in taken:
                waiting.job.begun = waiting.job.begun or began
                self._usage.add(waiting.job.tenant, waiting.tokens)
            rows = [waiting.job.rows[waiting.place] for waiting in taken]
            batch = self._lanes.submit(_found, self.backbone, rows)
            self._running[batch] = {waiting.job.tenant for waiting in taken}
            batch.add_done_callback(partial(self._tell, taken, began))

    def _tell(self, taken: Sequence[QueuedRow], began: float, batch: Future[Found]) -> None:
        """Brings what a lane found to the event loop."""
        seconds = time.monotonic() - began
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._answered, taken, seconds, batch)

    def _barred(self) -> str | None:
        """Who may not take the last free lane."""
        if self._lanes.n == 1 or len(self._running) < self._lanes.n - 1:
            return None
        dominant = self._usage.dominant()
        held = any(dominant in tenants for tenants in self._running.values())
        return dominant if held else None

    def _answered(self, taken: Sequence[QueuedRow], seconds: float, batch: Future[Found]) -> None:
        del self._running[batch]
        self._fill()  # before anyone is told: no lane waits until answers are written out
        tokens = sum(waiting.tokens for waiting in taken)
        self.rate = 0.9 * self.rate + 0.1 * tokens / seconds if self.rate else tokens / seconds
        self._watch.batch(len(taken), tokens, seconds)
        for waiting, one in zip(taken, batch.result(), strict=True):
            job = waiting.job
            if isinstance(one, Exception):
                job.end(one)
                continue
            job.answers[waiting.place] = one
            job.unanswered -= 1
            if job.unanswered == 0 and not job.done.done():
                job.done.set_result(job.answers)


def _found(backbone: Backbone, rows: Sequence[tuple[Adapter | None, Example]]) -> Found:
    """An answer for each row; where a batch fails, each row's own fault."""
    try:
        return list(answer_rows(backbone, rows))
    except Exception as error:
        if len(rows) == 1:
            log.exception("a row could not be answered")
            return [error]
        # One tenant's fault is not another's: the halves find whose it is.
        middle = len(rows) // 2
        return _found(backbone, rows[:middle]) + _found(backbone, rows[middle:])
