"""A client of `adapterkit serve`, in a synchronous and an asynchronous form; torch is not needed.

Both carry out the exchanges of `Endpoints`, which know what is asked and how it is answered; here
is only how requests are sent, and sent again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, Self, TypeVar

import httpx2

from ..errors import AdapterkitError, UnavailableError
from .protocol import Endpoints, Exchange, Reply, Request

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H")

PATIENCE = (429, 503)
"""Statuses after which a request is sent again: nothing was done for it."""

KEEP = httpx2.Limits(keepalive_expiry=4.0)
"""Shorter than the 5 seconds after which a server closes: none is used as it is being closed."""


class _Endpoint(Generic[H]):
    """A server, and what both clients do alike.

    Args:
        url: The server's, `http://127.0.0.1:8080`.
        key: An API key, where the server has keys.
        timeout: Seconds to wait for an answer. Where a server asks for a longer pause before the
            next attempt, its error is raised at once.
        attempts: Most times a request is sent while the server answers 429 or 503; 1 never sends
            one again.

    Raises:
        AdapterkitError: The URL or a number is not sound.
    """

    _opens: ClassVar[Callable[..., Any]]
    """What its connections are made with."""

    def __init__(
        self, url: str, key: str | None = None, timeout: float = 30.0, attempts: int = 3
    ) -> None:
        if not _is_url(url):
            raise AdapterkitError(f"'{url}': expected a URL such as http://127.0.0.1:8080")
        if not timeout > 0 or attempts < 1:
            raise AdapterkitError(
                f"expected a timeout above 0 and 1 attempt or more, got {timeout:g} and {attempts}"
            )
        if key is not None and not (key.isascii() and key.isprintable()):
            raise AdapterkitError("the API key holds characters that no key has; copy it again")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.attempts = attempts
        self._endpoints = Endpoints()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http: H = type(self)._opens(headers=headers, timeout=timeout, limits=KEEP)

    def _parts(self, request: Request) -> dict[str, Any]:
        headers = {"content-type": request.content_type} if request.body else {}
        url = self.url + request.path
        return {"method": request.method, "url": url, "content": request.body, "headers": headers}

    def _pause(self, request: Request, reply: Reply, attempt: int) -> float | None:
        """Seconds until the next attempt; None where there is none."""
        if reply.status not in PATIENCE or not request.retryable or attempt >= self.attempts:
            return None
        wait = reply.retry_after
        if wait is None:
            wait = 0.25 * 2**attempt
        # Clients that were turned away together do not come back together.
        return None if wait > self.timeout else wait * random.uniform(1.0, 1.1)

    def _told(self, error: Exception) -> UnavailableError:
        if isinstance(error, httpx2.TimeoutException):
            return UnavailableError(f"{self.url}: no answer within {self.timeout:g} s")
        if isinstance(error, httpx2.ConnectError):
            return UnavailableError(
                f"{self.url}: no server can be reached there ({error}); "
                "is adapterkit serve running, and the URL right?"
            )
        return UnavailableError(f"{self.url}: the connection broke ({error})")


def _is_url(text: str) -> bool:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        return False
    fits = url.port is None or 0 < url.port < 65536
    return url.scheme in ("http", "https") and bool(url.host) and fits and not url.query


def _sync(
    plan: Callable[Concatenate[Endpoints, P], Exchange[T]],
) -> Callable[Concatenate[Client, P], T]:
    """A plan as a method that carries it out."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._carry_out(plan(self._endpoints, *args, **kwargs))

    update_wrapper(method, plan)
    return method


class Client(_Endpoint[httpx2.Client]):
    """A server's adapters, as if they were here; any number of threads may use it."""

    _opens = httpx2.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    predict = _sync(Endpoints.predict)
    ask = _sync(Endpoints.ask)
    embed = _sync(Endpoints.embed)
    similarity = _sync(Endpoints.similarity)
    model = _sync(Endpoints.model)
    info = _sync(Endpoints.info)
    ready = _sync(Endpoints.ready)
    publish = _sync(Endpoints.publish)
    alias = _sync(Endpoints.alias)
    roll_back = _sync(Endpoints.roll_back)
    unload = _sync(Endpoints.unload)
    delete = _sync(Endpoints.delete)
    verify = _sync(Endpoints.verify)

    def models(self, page: int = 100) -> Iterator[dict[str, Any]]:
        """The plain backbone and every adapter the key may ask, by name.

        Args:
            page: How many to fetch at a time.
        """
        after, more = "", True
        while more:
            found, more = self._carry_out(self._endpoints.page(after, page))
            yield from found
            after = found[-1]["id"] if found else ""

    def _carry_out(self, plan: Exchange[T]) -> T:
        try:
            request = next(plan)
            while True:
                try:
                    reply = self._send(request)
                except UnavailableError as error:
                    request = plan.throw(error)
                else:
                    request = plan.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, request: Request) -> Reply:
        attempt = 1
        while True:
            try:
                said = self._http.request(**self._parts(request))
            except httpx2.RequestError as error:
                raise self._told(error) from None
            reply = Reply(said.status_code, said.headers, said.content)
            wait = self._pause(request, reply, attempt)
            if wait is None:
                return reply
            time.sleep(wait)
            attempt += 1


def _async(
    plan: Callable[Concatenate[Endpoints, P], Exchange[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """A plan as a coroutine that carries it out."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._carry_out(plan(self._endpoints, *args, **kwargs))

    update_wrapper(method, plan)
    return method


class AsyncClient(_Endpoint[httpx2.AsyncClient]):
    """`Client` for asyncio."""

    _opens = httpx2.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    predict = _async(Endpoints.predict)
    ask = _async(Endpoints.ask)
    embed = _async(Endpoints.embed)
    similarity = _async(Endpoints.similarity)
    model = _async(Endpoints.model)
    info = _async(Endpoints.info)
    ready = _async(Endpoints.ready)
    publish = _async(Endpoints.publish)
    alias = _async(Endpoints.alias)
    roll_back = _async(Endpoints.roll_back)
    unload = _async(Endpoints.unload)
    delete = _async(Endpoints.delete)
    verify = _async(Endpoints.verify)

    async def models(self, page: int = 100) -> AsyncIterator[dict[str, Any]]:
        """The plain backbone and every adapter the key may ask, by name.

        Args:
            page: How many to fetch at a time.
        """
        after, more = "", True
        while more:
            found, more = await self._carry_out(self._endpoints.page(after, page))
            for one in found:
                yield one
            after = found[-1]["id"] if found else ""

    async def _carry_out(self, plan: Exchange[T]) -> T:
        try:
            request = next(plan)
            while True:
                try:
                    reply = await self._send(request)
                except UnavailableError as error:
                    request = plan.throw(error)
                else:
                    request = plan.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, request: Request) -> Reply:
        attempt = 1
        while True:
            try:
                said = await self._http.request(**self._parts(request))
            except httpx2.RequestError as error:
                raise self._told(error) from None
            reply = Reply(said.status_code, said.headers, said.content)
            wait = self._pause(request, reply, attempt)
            if wait is None:
                return reply
            await asyncio.sleep(wait)
            attempt += 1
