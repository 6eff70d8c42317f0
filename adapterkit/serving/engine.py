"""The engine: requests of many tenants queued fairly and answered in mixed packed batches.

Rows wait in one queue ordered by start-time fair queueing (Goyal et al. 1996): a tenant alone is
served in order of arrival, and a tenant that floods the queue waits behind its own rows, not in
front of others'. When the queue is full, the tenant that holds most of it loses its last request.
Batches are computed in lanes, side by side; a tenant that takes most of the engine while others are
about leaves them the last lane, so that they need not wait for its batches to end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heapreplace

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..errors import OverloadedError, UnavailableError
from ..inference.predictor import answer, n_tokens, read
from ..tasks.base import Answer, Example, Text

SHORT = 1000
"""Characters that are tokenised sooner than another thread could be asked to."""

ABOUT = 3.0
"""Seconds without a request after which a tenant no longer has a lane kept free for it."""

log = logging.getLogger("adapterkit")

Found = list[Answer | Exception]
"""What a lane found: an answer for each row, or why there is none."""


@dataclass(eq=False)
class Job:
    """One request: rows that are answered together or not at all.

    Attributes:
        tenant: Whose share of the engine it takes.
        rows: Adapter and example of each row.
        deadline: Monotonic time after which nobody waits for it.
        done: Its answers.
        left: Rows that wait.
        unanswered: Rows without an answer.
        tokens: Tokens that wait.
        arrived, begun: When it was queued and when its first row was taken.
    """

    tenant: str
    rows: list[tuple[Adapter | None, Example]]
    deadline: float
    done: asyncio.Future[list[Answer]]
    arrived: float = field(default_factory=time.monotonic)
    begun: float | None = None
    left: int = 0
    unanswered: int = 0
    tokens: int = 0
    answers: list[Answer] = field(default_factory=list)

    def end(self, error: Exception) -> None:
        """Ends it without an answer."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True)
class Waiting:
    """One row in the queue.

    Attributes:
        start: Its start tag: virtual time at which its tenant's fair share reaches it.
        number: Order of arrival, which decides between equal starts.
        place: Which row of its job.
        tokens: Its tokens.
        job: Its request.
    """

    start: float
    number: int
    place: int
    tokens: int
    job: Job


@dataclass
class _Share:
    """A tenant's rows in the queue, and where its fair share ends so far."""

    finish: float = 0.0
    tokens: int = 0
    rows: deque[Waiting] = field(default_factory=deque)
    jobs: dict[Job, None] = field(default_factory=dict)


class Queue:
    """Rows of many tenants under a bound of tokens, the next ones fair to all.

    Args:
        max_tokens: Most tokens that wait.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self.rows = 0
        self._shares: dict[str, _Share] = {}
        self._now = 0.0
        self._number = 0

    @property
    def tenants(self) -> int:
        """Tenants that wait."""
        return sum(bool(share.jobs) for share in self._shares.values())

    def is_full_for(self, tenant: str) -> bool:
        """Whether a request of this tenant would be turned away, whatever its size."""
        return self.tokens >= self.max_tokens and self._largest() == tenant

    def add(self, job: Job) -> list[Job]:
        """Queues a request.

        Returns:
            Requests that had to leave for it, the request itself where its own tenant holds most.
        """
        sizes = [n_tokens(adapter, example) for adapter, example in job.rows]
        job.tokens, job.left, job.unanswered = sum(sizes), len(sizes), len(sizes)
        job.answers = [{}] * len(job.rows)
        share = self._shares.setdefault(job.tenant, _Share())
        share.jobs[job] = None
        self._count(share, job.tokens, len(sizes))
        start = max(self._now, share.finish)
        for place, tokens in enumerate(sizes):
            self._number += 1
            share.rows.append(Waiting(start, self._number, place, tokens, job))
            start += tokens
        share.finish = start
        out = []
        # A request larger than the whole queue is still answered when nobody else waits.
        while self.tokens > self.max_tokens and self.rows > len(job.rows):
            largest = max(self._shares.values(), key=lambda share: share.tokens)
            last = next(reversed(largest.jobs))
            largest.finish -= last.tokens
            self.leave(last)
            out.append(last)
            if last is job:
                break
        return out

    def leave(self, job: Job) -> None:
        """Takes a request that is not answered out; its rows are passed over when they come up."""
        share = self._shares.get(job.tenant)
        if share is None or job not in share.jobs:
            return
        del share.jobs[job]
        self._count(share, -job.tokens, -job.left)
        job.left = 0

    def take(self, max_tokens: int, barred: str | None = None) -> list[Waiting]:
        """The next rows to answer: at most so many tokens, or one row.

        Args:
            max_tokens: Most tokens.
            barred: A tenant that must wait for now.
        """
        taken: list[Waiting] = []
        filled = 0
        heads = [
            (first.start, first.number, tenant)
            for tenant, share in self._shares.items()
            if tenant != barred and (first := self._first(share)) is not None
        ]
        heapify(heads)
        while heads:
            share = self._shares[heads[0][2]]
            first = share.rows[0]
            if taken and filled + first.tokens > max_tokens:
                break
            taken.append(share.rows.popleft())
            filled += first.tokens
            self._now = first.start
            self._served(share, first)
            follower = self._first(share)
            if follower is None:
                heappop(heads)
            else:
                heapreplace(heads, (follower.start, follower.number, heads[0][2]))
        if not self.rows:  # nobody waits: nobody owes anything, and no name is remembered
            self._shares.clear()
            self._now = 0.0
        return taken

    def _first(self, share: _Share) -> Waiting | None:
        """A tenant's next row that somebody still waits for."""
        now = time.monotonic()
        while share.rows:
            job = share.rows[0].job
            if job in share.jobs and not job.done.done() and now <= job.deadline:
                return share.rows[0]
            job.end(_late())
            self.leave(job)
            share.rows.popleft()
        return None

    def _served(self, share: _Share, row: Waiting) -> None:
        job = row.job
        job.left -= 1
        job.tokens -= row.tokens
        self._count(share, -row.tokens, -1)
        if job.left == 0:
            del share.jobs[job]

    def _count(self, share: _Share, tokens: int, rows: int) -> None:
        share.tokens += tokens
        self.tokens += tokens
        self.rows += rows

    def _largest(self) -> str | None:
        return max(self._shares, key=lambda name: self._shares[name].tokens, default=None)


class Usage:
    """What each tenant took of the engine lately: tokens that fade with a half-life of a second.

    A tenant is about until it has asked for nothing for `ABOUT` seconds.
    """

    def __init__(self) -> None:
        self._taken: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._at = time.monotonic()

    def add(self, tenant: str, tokens: int) -> None:
        """Tokens of a tenant are about to be computed."""
        self._fade()
        self._taken[tenant] = self._taken.get(tenant, 0.0) + tokens
        self._last[tenant] = self._at

    def dominant(self) -> str | None:
        """The tenant that takes more than two thirds, where others are about."""
        self._fade()
        total = sum(self._taken.values())
        for tenant, taken in self._taken.items():
            if len(self._taken) > 1 and taken > total * 2 / 3:
                return tenant
        return None

    def _fade(self) -> None:
        now = time.monotonic()
        if now - self._at < 0.1:
            return
        left = 0.5 ** (now - self._at)
        self._at = now
        self._last = {k: at for k, at in self._last.items() if now - at <= ABOUT}
        self._taken = {k: v * left for k, v in self._taken.items() if k in self._last}


class Watch:
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
        lanes: Batches computed at the same time.
        watch: Told of every batch and request, for metrics.
    """

    def __init__(
        self,
        backbone: Backbone,
        max_batch_tokens: int,
        max_queue_tokens: int,
        lanes: int,
        watch: Watch | None = None,
    ) -> None:
        self.backbone = backbone
        self.max_batch_tokens = max_batch_tokens
        self.queue = Queue(max_queue_tokens)
        self.rate = 0.0
        self._watch = watch or Watch()
        self._closing = False
        self._lanes = lanes
        self._running: dict[Future[Found], set[str]] = {}
        self._usage = Usage()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filling = False
        self._compute = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
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
            examples = read(self.backbone, owners, texts)
        else:
            examples = await loop.run_in_executor(self._readers, read, self.backbone, owners, texts)
        self._watch.stage("tokenise", time.monotonic() - began)
        if charge is not None:
            charge(examples)
        job = Job(
            tenant, list(zip(owners, examples, strict=True)), began + timeout, loop.create_future()
        )
        for loser in self.queue.add(job):
            loser.end(self._overloaded())
        if self._loop is not None and not self._filling:
            # Not at once: requests that came together are answered together.
            self._filling = True
            self._loop.call_soon(self._fill)
        timer = loop.call_at(loop.time() + timeout, job.end, _late())
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
        self._compute.shutdown(wait=False)
        self._readers.shutdown(wait=False)

    def _overloaded(self) -> OverloadedError:
        wait = self.queue.tokens / (self._lanes * self.rate) if self.rate else 1.0
        return OverloadedError("too many requests are waiting; try again later", min(wait, 60.0))

    def _fill(self) -> None:
        """Gives every free lane its next batch."""
        self._filling = False
        while len(self._running) < self._lanes:
            taken = self.queue.take(self.max_batch_tokens, self._barred())
            if not taken:
                return
            began = time.monotonic()
            for waiting in taken:
                waiting.job.begun = waiting.job.begun or began
                self._usage.add(waiting.job.tenant, waiting.tokens)
            rows = [waiting.job.rows[waiting.place] for waiting in taken]
            batch = self._compute.submit(_found, self.backbone, rows)
            self._running[batch] = {waiting.job.tenant for waiting in taken}
            batch.add_done_callback(partial(self._tell, taken, began))

    def _tell(self, taken: Sequence[Waiting], began: float, batch: Future[Found]) -> None:
        """Brings what a lane found to the event loop."""
        seconds = time.monotonic() - began
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._answered, taken, seconds, batch)

    def _barred(self) -> str | None:
        """Who may not take the last free lane."""
        if self._lanes == 1 or len(self._running) < self._lanes - 1:
            return None
        dominant = self._usage.dominant()
        held = any(dominant in tenants for tenants in self._running.values())
        return dominant if held else None

    def _answered(self, taken: Sequence[Waiting], seconds: float, batch: Future[Found]) -> None:
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
        return list(answer(backbone, rows))
    except Exception as error:
        if len(rows) == 1:
            log.exception("a row could not be answered")
            return [error]
        # One tenant's fault is not another's: the halves find whose it is.
        middle = len(rows) // 2
        return _found(backbone, rows[:middle]) + _found(backbone, rows[middle:])


def _late() -> UnavailableError:
    return UnavailableError("no answer in time; the server has too much to do")
