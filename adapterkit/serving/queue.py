"""Requests of many tenants, queued fairly under a bound of tokens.

Start-time fair queueing (Goyal et al. 1996): a tenant alone is served in order of arrival, and a
tenant that floods the queue waits behind its own rows, not in front of others'. When the queue is
full, the tenant that holds most of it loses its last request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from ..adapter.adapter import Adapter
from ..errors import UnavailableError
from ..inference.pipeline import n_tokens
from ..tasks.types import Answer, Example

ABOUT = 3.0
"""Seconds without a request after which a tenant no longer has a lane kept free for it."""


@dataclass(eq=False)
class QueuedRequest:
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
class QueuedRow:
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
    job: QueuedRequest


@dataclass
class _Share:
    """A tenant's rows in the queue, and where its fair share ends so far."""

    finish: float = 0.0
    tokens: int = 0
    rows: deque[QueuedRow] = field(default_factory=deque)
    jobs: dict[QueuedRequest, None] = field(default_factory=dict)


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

    @property
    def n_remembered(self) -> int:
        """Tenants whose share is remembered, also those without a waiting request."""
        return len(self._shares)

    def is_full_for(self, tenant: str) -> bool:
        """Whether a request of this tenant would be turned away, whatever its size."""
        return self.tokens >= self.max_tokens and self._largest() == tenant

    def add(self, job: QueuedRequest) -> list[QueuedRequest]:
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
            share.rows.append(QueuedRow(start, self._number, place, tokens, job))
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

    def leave(self, job: QueuedRequest) -> None:
        """Takes a request that is not answered out; its rows are passed over when they come up."""
        share = self._shares.get(job.tenant)
        if share is None or job not in share.jobs:
            return
        del share.jobs[job]
        self._count(share, -job.tokens, -job.left)
        job.left = 0

    def take(self, max_tokens: int, barred: str | None = None) -> list[QueuedRow]:
        """The next rows to answer: at most so many tokens, or one row.

        Args:
            max_tokens: Most tokens.
            barred: A tenant that must wait for now.
        """
        taken: list[QueuedRow] = []
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

    def _first(self, share: _Share) -> QueuedRow | None:
        """A tenant's next row that somebody still waits for."""
        now = time.monotonic()
        while share.rows:
            job = share.rows[0].job
            if job in share.jobs and not job.done.done() and now <= job.deadline:
                return share.rows[0]
            job.end(too_late())
            self.leave(job)
            share.rows.popleft()
        return None

    def _served(self, share: _Share, row: QueuedRow) -> None:
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

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._at = clock()

    @property
    def tenants(self) -> frozenset[str]:
        """Tenants whose tokens are remembered."""
        return frozenset(self._taken)

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
        now = self._clock()
        if now - self._at < 0.1:
            return
        left = 0.5 ** (now - self._at)
        self._at = now
        self._last = {k: at for k, at in self._last.items() if now - at <= ABOUT}
        self._taken = {k: v * left for k, v in self._taken.items() if k in self._last}


def too_late() -> UnavailableError:
    """Nobody waits for the answer any more."""
    return UnavailableError("no answer in time; the server has too much to do")
