"""The waiting rows of many tenants: a fair queue with a limit on its tokens.

Start-time fair queueing (Goyal et al. 1996): the rows of a single tenant are served in the order of
their arrival, and a tenant that floods the queue delays its own rows, not those of others. When the
queue is full, the tenant with the most tokens in it loses its latest request.
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

ACTIVE_SECONDS = 3.0
"""A tenant counts as active for this long after its last request."""


@dataclass(eq=False)
class QueuedRequest:
    """One request, whose rows are all answered or all refused.

    Attributes:
        tenant: The tenant whose share of the engine it uses.
        rows: Adapter and example of each row.
        deadline: Monotonic time after which its caller no longer waits.
        done: Future of its answers.
        arrived, started: Monotonic time when it was queued, and when its first row was taken.
        n_waiting: Number of rows that wait.
        n_unanswered: Number of rows without an answer.
        tokens: Number of tokens that wait.
        answers: Answers so far, in the order of the rows.
    """

    tenant: str
    rows: list[tuple[Adapter | None, Example]]
    deadline: float
    done: asyncio.Future[list[Answer]]
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    n_waiting: int = 0
    n_unanswered: int = 0
    tokens: int = 0
    answers: list[Answer] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        """Ends it with an error, unless it has ended already."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True)
class QueuedRow:
    """One row in the queue.

    Attributes:
        start: Start tag: the virtual time at which the fair share of its tenant reaches it.
        number: Order of arrival, which decides between equal start tags.
        index: Index of the row in its request.
        tokens: Number of its tokens.
        request: Its request.
    """

    start: float
    number: int
    index: int
    tokens: int
    request: QueuedRequest


@dataclass
class _Share:
    """The rows of a tenant in the queue, and the finish tag of its last row."""

    finish: float = 0.0
    tokens: int = 0
    rows: deque[QueuedRow] = field(default_factory=deque)
    requests: dict[QueuedRequest, None] = field(default_factory=dict)


class Queue:
    """Waiting rows of many tenants, taken in a fair order.

    Args:
        max_tokens: Most tokens that may wait.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self.rows = 0
        self._shares: dict[str, _Share] = {}
        self._virtual_time = 0.0
        self._number = 0

    @property
    def tenants(self) -> int:
        """Number of tenants with a waiting request."""
        return sum(bool(share.requests) for share in self._shares.values())

    @property
    def n_remembered(self) -> int:
        """Number of tenants whose share is stored, also those without a waiting request."""
        return len(self._shares)

    def is_full_for(self, tenant: str) -> bool:
        """Whether any further request of this tenant would be refused."""
        return self.tokens >= self.max_tokens and self._largest() == tenant

    def add(self, request: QueuedRequest) -> list[QueuedRequest]:
        """Adds a request.

        Returns:
            The requests that were removed because the queue is full. The new request is among them
            if its own tenant has the most tokens in the queue.
        """
        sizes = [n_tokens(adapter, example) for adapter, example in request.rows]
        request.tokens = sum(sizes)
        request.n_waiting = request.n_unanswered = len(sizes)
        request.answers = [{}] * len(sizes)
        share = self._shares.setdefault(request.tenant, _Share())
        share.requests[request] = None
        self._count(share, request.tokens, len(sizes))
        start = max(self._virtual_time, share.finish)
        for index, tokens in enumerate(sizes):
            self._number += 1
            share.rows.append(QueuedRow(start, self._number, index, tokens, request))
            start += tokens
        share.finish = start
        return self._shrink(request)

    def _shrink(self, added: QueuedRequest) -> list[QueuedRequest]:
        """Removes requests until the queue is within its limit; returns them."""
        removed = []
        # A request larger than the limit is accepted if no other row waits.
        while self.tokens > self.max_tokens and self.rows > len(added.rows):
            largest = max(self._shares.values(), key=lambda share: share.tokens)
            latest = next(reversed(largest.requests))
            largest.finish -= latest.tokens
            self.remove(latest)
            removed.append(latest)
            if latest is added:
                break
        return removed

    def remove(self, request: QueuedRequest) -> None:
        """Removes a request, if it is in the queue; `take` skips its rows."""
        share = self._shares.get(request.tenant)
        if share is None or request not in share.requests:
            return
        del share.requests[request]
        self._count(share, -request.tokens, -request.n_waiting)
        request.n_waiting = 0

    def take(self, max_tokens: int, excluded: str | None = None) -> list[QueuedRow]:
        """Takes the rows of the next batch: at least one, if there is any.

        Args:
            max_tokens: Most tokens of the batch; a single row may exceed it.
            excluded: A tenant whose rows are not taken.
        """
        taken: list[QueuedRow] = []
        n_taken_tokens = 0
        heads = [
            (first.start, first.number, tenant)
            for tenant, share in self._shares.items()
            if tenant != excluded and (first := self._first(share)) is not None
        ]
        heapify(heads)
        while heads:
            share = self._shares[heads[0][2]]
            first = share.rows[0]
            if taken and n_taken_tokens + first.tokens > max_tokens:
                break
            taken.append(share.rows.popleft())
            n_taken_tokens += first.tokens
            self._virtual_time = first.start
            self._count_taken(share, first)
            following = self._first(share)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (following.start, following.number, heads[0][2]))
        if not self.rows:  # an empty queue starts anew, and stores no tenant
            self._shares.clear()
            self._virtual_time = 0.0
        return taken

    def _first(self, share: _Share) -> QueuedRow | None:
        """The next row of a tenant whose caller still waits."""
        now = time.monotonic()
        while share.rows:
            request = share.rows[0].request
            if request in share.requests and not request.done.done() and now <= request.deadline:
                return share.rows[0]
            request.fail(timeout_error())
            self.remove(request)
            share.rows.popleft()
        return None

    def _count_taken(self, share: _Share, row: QueuedRow) -> None:
        request = row.request
        request.n_waiting -= 1
        request.tokens -= row.tokens
        self._count(share, -row.tokens, -1)
        if request.n_waiting == 0:
            del share.requests[request]

    def _count(self, share: _Share, tokens: int, rows: int) -> None:
        share.tokens += tokens
        self.tokens += tokens
        self.rows += rows

    def _largest(self) -> str | None:
        return max(self._shares, key=lambda name: self._shares[name].tokens, default=None)


class Usage:
    """Recent use of the engine by each tenant: tokens, which decay with a half-life of a second.

    A tenant is active until it has made no request for `ACTIVE_SECONDS`.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens: dict[str, float] = {}
        self._last_request: dict[str, float] = {}
        self._updated = clock()

    @property
    def tenants(self) -> frozenset[str]:
        """Tenants whose tokens are stored."""
        return frozenset(self._tokens)

    def add(self, tenant: str, tokens: int) -> None:
        """Adds tokens of a tenant that are about to be computed."""
        self._decay()
        self._tokens[tenant] = self._tokens.get(tenant, 0.0) + tokens
        self._last_request[tenant] = self._updated

    def dominant(self) -> str | None:
        """The tenant that uses more than two thirds of the engine while others are active."""
        self._decay()
        total = sum(self._tokens.values())
        for tenant, tokens in self._tokens.items():
            if len(self._tokens) > 1 and tokens > total * 2 / 3:
                return tenant
        return None

    def _decay(self) -> None:
        now = self._clock()
        if now - self._updated < 0.1:
            return
        factor = 0.5 ** (now - self._updated)
        self._updated = now
        self._last_request = {
            tenant: at for tenant, at in self._last_request.items() if now - at <= ACTIVE_SECONDS
        }
        self._tokens = {
            tenant: tokens * factor
            for tenant, tokens in self._tokens.items()
            if tenant in self._last_request
        }


def timeout_error() -> UnavailableError:
    """The error of a request whose deadline has passed."""
    return UnavailableError("no answer in time; the server has too much to do")
