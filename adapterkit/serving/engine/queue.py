"""The waiting requests of many tenants: a fair queue with a limit on its tokens.

A request is divided into parts, such as rows to tokenise or sequences to compute. Start-time fair
queueing (Goyal et al. 1996): the parts of a single tenant are served in the order of their arrival,
and a tenant that floods the queue delays its own parts, not those of others. When the queue is
full, the tenant with the most tokens in it loses its latest request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Any, Generic, TypeVar

from ...errors import UnavailableError

P = TypeVar("P")
R = TypeVar("R")

ACTIVE_SECONDS = 3.0
"""A tenant counts as active for this long after its last request."""


@dataclass(eq=False)
class QueuedRequest(Generic[P, R]):
    """Work for one tenant, in parts that are all done or all refused.

    Attributes:
        tenant: The tenant whose share of the machine it uses.
        parts: What is to be done, at least one part.
        sizes: Tokens of each part.
        deadline: Monotonic time after which its caller no longer waits.
        done: Future of the results.
        arrived, started: Monotonic time when it was queued, and when its first part was taken.
        n_waiting: Number of parts that wait.
        n_unfinished: Number of parts without a result.
        tokens: Number of tokens that wait.
        results: Results so far, in the order of the parts.
    """

    tenant: str
    parts: Sequence[P]
    sizes: Sequence[int]
    deadline: float
    done: asyncio.Future[list[R]]
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    n_waiting: int = field(init=False)
    n_unfinished: int = field(init=False)
    tokens: int = field(init=False)
    results: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.n_waiting = self.n_unfinished = len(self.sizes)
        self.tokens = sum(self.sizes)
        self.results = [None] * len(self.sizes)

    def fail(self, error: Exception) -> None:
        """Ends it with an error, unless it has ended already."""
        if not self.done.done():
            self.done.set_exception(error)

    def finish_part(self, index: int, result: R | Exception) -> None:
        """Stores the result of a part, or fails with the error that prevented it."""
        if isinstance(result, Exception):
            self.fail(result)
            return
        self.results[index] = result
        self.n_unfinished -= 1
        if self.n_unfinished == 0 and not self.done.done():
            self.done.set_result(self.results)


@dataclass(frozen=True)
class QueuedPart:
    """One part of a request in the queue.

    Attributes:
        start: Start tag: the virtual time at which the fair share of its tenant reaches it.
        number: Order of arrival, which decides between equal start tags.
        index: Index of the part in its request.
        tokens: Number of its tokens.
        request: Its request.
    """

    start: float
    number: int
    index: int
    tokens: int
    request: QueuedRequest[Any, Any]


@dataclass
class _Share:
    """The parts of a tenant in the queue, and the finish tag of its last part."""

    finish: float = 0.0
    tokens: int = 0
    parts: deque[QueuedPart] = field(default_factory=deque)
    requests: dict[QueuedRequest[Any, Any], None] = field(default_factory=dict)


class Queue:
    """Waiting parts of the requests of many tenants, taken in a fair order.

    Args:
        max_tokens: Most tokens that may wait.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self.parts = 0
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
        full = bool(self._shares) and self.tokens >= self.max_tokens
        return full and self._largest() == tenant

    def add(self, request: QueuedRequest[Any, Any]) -> list[QueuedRequest[Any, Any]]:
        """Adds a request.

        Returns:
            The requests that were removed because the queue is full. The new request is among them
            if its own tenant has the most tokens in the queue.
        """
        share = self._shares.setdefault(request.tenant, _Share())
        share.requests[request] = None
        self._count(share, request.tokens, request.n_waiting)
        start = max(self._virtual_time, share.finish)
        for index, tokens in enumerate(request.sizes):
            self._number += 1
            share.parts.append(QueuedPart(start, self._number, index, tokens, request))
            start += tokens
        share.finish = start
        return self._shrink(request)

    def _shrink(self, added: QueuedRequest[Any, Any]) -> list[QueuedRequest[Any, Any]]:
        """Removes requests until the queue is within its limit; returns them."""
        removed = []
        # A request larger than the limit is accepted if no other request waits.
        while self.tokens > self.max_tokens and self.parts > added.n_waiting:
            largest = self._shares[self._largest()]
            latest = next(reversed(largest.requests))
            largest.finish -= latest.tokens
            self.remove(latest)
            removed.append(latest)
            if latest is added:
                break
        return removed

    def remove(self, request: QueuedRequest[Any, Any]) -> None:
        """Removes a request, if it is in the queue; `take` skips its parts."""
        share = self._shares.get(request.tenant)
        if share is None or request not in share.requests:
            return
        del share.requests[request]
        self._count(share, -request.tokens, -request.n_waiting)
        request.n_waiting = 0

    def take(self, max_tokens: int, excluded: str | None = None) -> list[QueuedPart]:
        """Takes the parts of the next batch: at least one, if there is any.

        Args:
            max_tokens: Most tokens of the batch; a single part may exceed it.
            excluded: A tenant whose parts are not taken.
        """
        taken: list[QueuedPart] = []
        n_taken_tokens = 0
        heads = [
            (first.start, first.number, tenant)
            for tenant, share in self._shares.items()
            if tenant != excluded and (first := self._first(share)) is not None
        ]
        heapify(heads)
        while heads:
            share = self._shares[heads[0][2]]
            first = share.parts[0]
            if taken and n_taken_tokens + first.tokens > max_tokens:
                break
            taken.append(share.parts.popleft())
            n_taken_tokens += first.tokens
            self._virtual_time = first.start
            self._count_taken(share, first)
            following = self._first(share)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (following.start, following.number, heads[0][2]))
        if not self.parts:  # an empty queue starts anew, and stores no tenant
            self._shares.clear()
            self._virtual_time = 0.0
        return taken

    def _first(self, share: _Share) -> QueuedPart | None:
        """The next part of a tenant whose caller still waits."""
        now = time.monotonic()
        while share.parts:
            request = share.parts[0].request
            if request in share.requests and not request.done.done() and now <= request.deadline:
                return share.parts[0]
            request.fail(timeout_error())
            self.remove(request)
            share.parts.popleft()
        return None

    def _count_taken(self, share: _Share, part: QueuedPart) -> None:
        request = part.request
        request.n_waiting -= 1
        request.tokens -= part.tokens
        self._count(share, -part.tokens, -1)
        if request.n_waiting == 0:
            del share.requests[request]

    def _count(self, share: _Share, tokens: int, parts: int) -> None:
        share.tokens += tokens
        self.tokens += tokens
        self.parts += parts

    def _largest(self) -> str:
        """The tenant with the most tokens; there must be one."""
        return max(self._shares, key=lambda name: self._shares[name].tokens)


class Usage:
    """Recent use of a pool by each tenant: tokens, which decay with a half-life of a second.

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
        """Adds tokens of a tenant that are about to be processed."""
        self._decay()
        self._tokens[tenant] = self._tokens.get(tenant, 0.0) + tokens
        self._last_request[tenant] = self._updated

    def dominant(self) -> str | None:
        """The tenant that uses more than two thirds of the pool while others are active."""
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
