"""The engine: takes the rows of many tenants from a fair queue and answers them in mixed batches.

Several lanes compute batches at the same time. While a single tenant dominates the engine and other
tenants are active, it may not use the last free lane. So the requests of the others do not wait
until one of its batches ends.
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
from .queue import Queue, QueuedRequest, QueuedRow, Usage, timeout_error

MAX_INLINE_CHARACTERS = 1000
"""Up to this length, tokenising takes less time than passing the texts to another thread."""

log = logging.getLogger("adapterkit")

BatchResult = list[Answer | Exception]
"""For each row of a batch its answer, or the error that prevented it."""


class EngineObserver:
    """Is notified of the engine's work; by default it does nothing."""

    def stage(self, name: str, seconds: float) -> None:
        """A request has passed a stage: `tokenise`, `queue` or `answer`."""

    def batch(self, rows: int, tokens: int, seconds: float) -> None:
        """A batch was answered."""


class Engine:
    """Answers the requests of many tenants with one backbone, in mixed packed batches.

    Args:
        backbone: The backbone.
        max_batch_tokens: Most tokens of a batch. A larger value gives more throughput, a smaller
            one shorter waiting times.
        max_queue_tokens: Most tokens that may wait.
        lanes: Compute the batches; closed by `drain`.
        observer: Is notified of every batch and request, for metrics.
    """

    def __init__(
        self,
        backbone: Backbone,
        max_batch_tokens: int,
        max_queue_tokens: int,
        lanes: WorkerLanes,
        observer: EngineObserver | None = None,
    ) -> None:
        self.backbone = backbone
        self.max_batch_tokens = max_batch_tokens
        self.queue = Queue(max_queue_tokens)
        self.tokens_per_second = 0.0
        self._observer = observer or EngineObserver()
        self._closing = False
        self._lanes = lanes
        self._running: dict[Future[BatchResult], set[str]] = {}
        self._usage = Usage()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fill_scheduled = False
        self._tokenizers = ThreadPoolExecutor(2, thread_name_prefix="tokenizer")

    @property
    def closing(self) -> bool:
        """Whether it refuses new requests."""
        return self._closing

    def start(self) -> None:
        """Starts to answer; must be called on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._fill_lanes()

    async def ask(
        self,
        tenant: str,
        rows: Sequence[tuple[Adapter | None, Text]],
        timeout: float,
        charge: Callable[[list[Example]], None] | None = None,
    ) -> list[Answer]:
        """Answers rows, which may mix adapters, methods and tasks.

        Args:
            tenant: The tenant whose share of the engine is used.
            rows: Adapter (None for the plain backbone) and text of each row; at least one row.
            timeout: Seconds after which the request fails.
            charge: Called with the tokenised rows before they are queued. An exception that it
                raises ends the request.

        Returns:
            The answer to each row, in the order of the rows.

        Raises:
            DataError: A text is empty or is not a text.
            OverloadedError: The queue is full.
            UnavailableError: The engine is closing, or the timeout has passed.
        """
        if self._closing:
            raise UnavailableError("the server is closing")
        if self.queue.is_full_for(tenant):
            raise self._overloaded()
        began = time.monotonic()
        examples = await self._tokenize(rows)
        self._observer.stage("tokenise", time.monotonic() - began)
        if charge is not None:
            charge(examples)
        loop = asyncio.get_running_loop()
        adapters = [adapter for adapter, _ in rows]
        request = QueuedRequest(
            tenant,
            list(zip(adapters, examples, strict=True)),
            began + timeout,
            loop.create_future(),
        )
        for removed in self.queue.add(request):
            removed.fail(self._overloaded())
        self._schedule_fill()
        timer = loop.call_at(loop.time() + timeout, request.fail, timeout_error())
        try:
            answers = await request.done
        finally:  # answered, refused, timed out, or cancelled because the caller disconnected
            timer.cancel()
            self.queue.remove(request)
        ended = time.monotonic()
        started = request.started or ended
        self._observer.stage("queue", started - request.arrived)
        self._observer.stage("answer", ended - started)
        return answers

    async def drain(self) -> None:
        """Refuses new requests, answers those that wait, and ends the threads."""
        self._closing = True
        while self.queue.rows or self._running:
            await asyncio.sleep(0.01)
        self._lanes.close()
        self._tokenizers.shutdown(wait=False)

    async def _tokenize(self, rows: Sequence[tuple[Adapter | None, Text]]) -> list[Example]:
        adapters, texts = [adapter for adapter, _ in rows], [text for _, text in rows]
        only_texts = all(isinstance(text, str) for text in texts)
        if only_texts and sum(map(len, texts)) <= MAX_INLINE_CHARACTERS:
            return encode_requests(self.backbone, adapters, texts)
        return await asyncio.get_running_loop().run_in_executor(
            self._tokenizers, encode_requests, self.backbone, adapters, texts
        )

    def _overloaded(self) -> OverloadedError:
        rate = self._lanes.n * self.tokens_per_second
        wait = self.queue.tokens / rate if rate else 1.0
        return OverloadedError("too many requests are waiting; try again later", min(wait, 60.0))

    def _schedule_fill(self) -> None:
        """Fills the lanes in the next turn of the event loop, so that requests that arrive
        together are answered together."""
        if self._loop is not None and not self._fill_scheduled:
            self._fill_scheduled = True
            self._loop.call_soon(self._fill_lanes)

    def _fill_lanes(self) -> None:
        """Gives every free lane its next batch."""
        self._fill_scheduled = False
        while len(self._running) < self._lanes.n:
            taken = self.queue.take(self.max_batch_tokens, self._excluded_tenant())
            if not taken:
                return
            began = time.monotonic()
            for row in taken:
                row.request.started = row.request.started or began
                self._usage.add(row.request.tenant, row.tokens)
            rows = [row.request.rows[row.index] for row in taken]
            batch = self._lanes.submit(_compute_batch, self.backbone, rows)
            self._running[batch] = {row.request.tenant for row in taken}
            batch.add_done_callback(partial(self._notify_loop, taken, began))

    def _excluded_tenant(self) -> str | None:
        """The tenant that may not use the last free lane."""
        if self._lanes.n == 1 or len(self._running) < self._lanes.n - 1:
            return None
        dominant = self._usage.dominant()
        is_running = any(dominant in tenants for tenants in self._running.values())
        return dominant if is_running else None

    def _notify_loop(
        self, taken: Sequence[QueuedRow], began: float, batch: Future[BatchResult]
    ) -> None:
        """Passes a finished batch from its lane to the event loop."""
        seconds = time.monotonic() - began
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._finish_batch, taken, seconds, batch)

    def _finish_batch(
        self, taken: Sequence[QueuedRow], seconds: float, batch: Future[BatchResult]
    ) -> None:
        del self._running[batch]
        self._fill_lanes()  # first, so that no lane waits while answers are sent
        tokens = sum(row.tokens for row in taken)
        rate = tokens / seconds
        before = self.tokens_per_second
        self.tokens_per_second = 0.9 * before + 0.1 * rate if before else rate
        self._observer.batch(len(taken), tokens, seconds)
        for row, result in zip(taken, batch.result(), strict=True):
            request = row.request
            if isinstance(result, Exception):
                request.fail(result)
                continue
            request.answers[row.index] = result
            request.n_unanswered -= 1
            if request.n_unanswered == 0 and not request.done.done():
                request.done.set_result(request.answers)


def _compute_batch(
    backbone: Backbone, rows: Sequence[tuple[Adapter | None, Example]]
) -> BatchResult:
    """The answer to each row. If a batch fails, its rows are computed in ever smaller batches, and
    only those that fail alone get an error."""
    try:
        return list(answer_rows(backbone, rows))
    except Exception as error:
        if len(rows) == 1:
            log.exception("a row could not be answered")
            return [error]
        middle = len(rows) // 2
        return _compute_batch(backbone, rows[:middle]) + _compute_batch(backbone, rows[middle:])
