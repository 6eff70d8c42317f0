"""The engine: tokenises and answers the rows of many tenants, in mixed batches from fair queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from ...adapter.adapter import Adapter
from ...backbone.model import Backbone
from ...errors import UnavailableError
from ...inference.backbones import Backbones
from ...inference.lanes import WorkerLanes
from ...inference.pipeline import encode_rows, n_characters
from ...tasks.types import Answer, Example, Text
from .fair_pool import FairPool
from .pending_row import Output, PendingRow, SequencePart, compute_parts
from .queue import Queue, QueuedRequest
from .tokenizing import TextRow, call_each, estimate_tokens, tokenize_rows

T = TypeVar("T")

MAX_INLINE_CHARACTERS = 1000
"""Up to this length, tokenising takes less time than passing the texts to another thread."""

TOKENIZER_THREADS = 2

UNTOKENIZED = 4
"""How many times the tokens of the other queue may wait to be tokenised. That is much faster than
computing, and a text that is cut has more tokens than are computed."""

TOKENIZER_BATCH_TOKENS = 2000
"""Estimated tokens that a thread tokenises before it takes the texts of the next tenant."""


class EngineObserver:
    """Is notified of the engine's work; by default it does nothing."""

    def stage(self, name: str, seconds: float) -> None:
        """A request has passed a stage: `tokenise`, `queue` or `answer`."""

    def batch(self, sequences: int, tokens: int, seconds: float) -> None:
        """A batch was computed."""


class Engine:
    """Answers the requests of many tenants, in mixed packed batches.

    Tokenising and computing are divided fairly among tenants, each by a pool of its own. Texts are
    tokenised row by row and computed sequence by sequence, so a long text never stops the others.
    All backbones share one queue; a batch computes the rows of each of them together.

    Args:
        backbone: The backbone, or several.
        max_batch_tokens: Most tokens of a batch. A larger value gives more throughput, a smaller
            one shorter waiting times.
        max_queue_tokens: Most tokens that may wait to be computed. Texts of four times as many
            estimated tokens may wait to be tokenised.
        lanes: Compute the batches; closed by `drain`.
        observer: Is notified of every batch and request, for metrics.
    """

    def __init__(
        self,
        backbone: Backbone | Backbones,
        max_batch_tokens: int,
        max_queue_tokens: int,
        lanes: WorkerLanes,
        observer: EngineObserver | None = None,
    ) -> None:
        self.backbones = Backbones.of(backbone)
        self.max_batch_tokens = max_batch_tokens
        self._observer = observer or EngineObserver()
        self._closing = False
        self._n_asking = 0
        self._lanes = lanes
        self._tokenizers = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._tokenizing = FairPool[TextRow, Example](
            partial(tokenize_rows, self.backbones),
            self._tokenizers.submit,
            TOKENIZER_THREADS,
            TOKENIZER_BATCH_TOKENS,
            UNTOKENIZED * max_queue_tokens,
        )
        self._tokenizer_calls = FairPool[Callable[[], Any], Any](
            call_each,
            self._tokenizers.submit,
            TOKENIZER_THREADS,
            TOKENIZER_BATCH_TOKENS,
            UNTOKENIZED * max_queue_tokens,
        )
        self._computing = FairPool[SequencePart, None](
            partial(compute_parts, self.backbones),
            lanes.submit,
            lanes.n,
            max_batch_tokens,
            max_queue_tokens,
            self._observer.batch,
        )

    @property
    def closing(self) -> bool:
        """Whether it refuses new requests."""
        return self._closing

    @property
    def queue(self) -> Queue:
        """The sequences that wait to be computed."""
        return self._computing.queue

    @property
    def untokenized(self) -> Queue:
        """The rows that wait to be tokenised."""
        return self._tokenizing.queue

    @property
    def tokens(self) -> int:
        """Tokens that wait or are being computed; those of texts to tokenise are estimated."""
        return self.untokenized.tokens + self.queue.tokens + self._computing.tokens_in_work

    def start(self) -> None:
        """Starts to answer; must be called on the running event loop."""
        self._tokenizing.start()
        self._tokenizer_calls.start()
        self._computing.start()

    async def ask(
        self,
        tenant: str,
        rows: Sequence[tuple[Adapter | None, Text]],
        timeout: float,
        charge: Callable[[list[Example]], None] | None = None,
        output: Output = Output.ANSWER,
    ) -> list[Answer]:
        """Answers rows, which may mix adapters, methods and tasks.

        Args:
            tenant: The tenant whose share of the engine is used.
            rows: Adapter (None for the plain backbone) and text of each row; at least one row.
            timeout: Seconds after which the request fails.
            charge: Called with the tokenised rows before they are queued. An exception that it
                raises ends the request.
            output: What is computed for each row.

        Returns:
            The answer to each row, in the order of the rows.

        Raises:
            DataError: A text is empty or is not a text.
            OverloadedError: The queue is full.
            UnavailableError: The engine is closing, or the timeout has passed.
        """
        if self._closing:
            raise UnavailableError("the server is closing")
        self._computing.check_room(tenant)
        self._n_asking += 1
        try:
            return await self._answer(tenant, rows, time.monotonic() + timeout, charge, output)
        finally:
            self._n_asking -= 1

    async def call_tokenizers(
        self, tenant: str, calls: Sequence[Callable[[], T]], tokens: Sequence[int], timeout: float
    ) -> list[T]:
        """Does other work of the tokenizers in their threads, divided fairly among tenants.

        Args:
            tenant: The tenant whose share of the threads is used.
            calls: The parts of the work, at least one.
            tokens: Number of tokens of each.
            timeout: Seconds after which the request fails.

        Returns:
            The result of each part.

        Raises:
            OverloadedError: The queue is full.
            UnavailableError: The engine is closing, or the timeout has passed.
        """
        if self._closing:
            raise UnavailableError("the server is closing")
        self._n_asking += 1
        try:
            done = asyncio.get_running_loop().create_future()
            deadline = time.monotonic() + timeout
            return await self._tokenizer_calls.run(
                QueuedRequest(tenant, calls, tokens, deadline, done)
            )
        finally:
            self._n_asking -= 1

    async def _answer(
        self,
        tenant: str,
        rows: Sequence[tuple[Adapter | None, Text]],
        deadline: float,
        charge: Callable[[list[Example]], None] | None,
        output: Output,
    ) -> list[Answer]:
        began = time.monotonic()
        examples = await self._tokenize(tenant, rows, deadline)
        self._observer.stage("tokenise", time.monotonic() - began)
        if charge is not None:
            charge(examples)
        adapters = [adapter for adapter, _ in rows]
        pending = [
            PendingRow(adapter, example, output)
            for adapter, example in zip(adapters, examples, strict=True)
        ]
        parts = [part for row in pending for part in row.parts()]
        done = asyncio.get_running_loop().create_future()
        request = QueuedRequest(tenant, parts, [part.n_tokens for part in parts], deadline, done)
        await self._computing.run(request)
        ended = time.monotonic()
        started = request.started or ended
        self._observer.stage("queue", started - request.arrived)
        self._observer.stage("answer", ended - started)
        return [row.answer for row in pending]

    async def drain(self) -> None:
        """Refuses new requests, answers those that wait, and ends the threads."""
        self._closing = True
        while self._n_asking or not self._computing.is_idle:
            await asyncio.sleep(0.01)
        self._lanes.close()
        self._tokenizers.shutdown(wait=False)

    async def _tokenize(
        self, tenant: str, rows: Sequence[tuple[Adapter | None, Text]], deadline: float
    ) -> list[Example]:
        sizes = [n_characters(adapter, text) for adapter, text in rows]
        parts = [TextRow(*row, f"text {number}") for number, row in enumerate(rows, 1)]
        if sum(sizes) <= MAX_INLINE_CHARACTERS:
            return self.backbones.map(encode_rows, parts)
        done = asyncio.get_running_loop().create_future()
        tokens = [estimate_tokens(size) for size in sizes]
        return await self._tokenizing.run(QueuedRequest(tenant, parts, tokens, deadline, done))
