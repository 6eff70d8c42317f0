"""Clients of `adapterkit serve`, a synchronous and an asynchronous one; neither needs torch.

`Endpoints` builds the requests and reads the replies of both. This module adds the transport: how a
request is sent, and when it is sent again.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from itertools import count
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, Self, TypeVar

import httpx2

from ..errors import AdapterkitError, UnavailableError
from .endpoints import Endpoints
from .messages import Reply, Request

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H")

RETRY_STATUSES = (429, 503)
"""Statuses after which a request may be sent again: the server did nothing for it."""

CONNECTION_LIMITS = httpx2.Limits(keepalive_expiry=4.0)
"""Idle connections end before the server closes them, which it does after 5 seconds. Otherwise a
request could be sent on a connection that is being closed."""


class _BaseClient(ABC, Generic[H]):
    """The address of a server, and everything that does not depend on how requests are sent.

    Args:
        url: Address of the server, such as `http://127.0.0.1:8080`.
        key: API key, if the server requires one.
        timeout: Seconds to wait for an answer. If a server asks for a longer pause before the next
            attempt, its error is raised at once.
        attempts: Most times that a request is sent while the server answers 429 or 503. With 1, a
            request is never sent again.

    Raises:
        AdapterkitError: An argument is not valid.
    """

    _http_class: ClassVar[Callable[..., Any]]
    """The httpx client that sends the requests."""

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
            raise AdapterkitError("the API key has characters that no key has; copy it again")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.attempts = attempts
        self._endpoints = Endpoints(self._reply)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http: H = type(self)._http_class(
            headers=headers, timeout=timeout, limits=CONNECTION_LIMITS
        )

    @abstractmethod
    async def _send(self, request: Request) -> httpx2.Response:
        """Sends a request once. Raises `httpx2.RequestError` if there is no reply."""

    @abstractmethod
    async def _sleep(self, seconds: float) -> None:
        """Waits."""

    async def _reply(self, request: Request) -> Reply:
        """Sends a request, again if the server asks for it.

        Raises:
            UnavailableError: There is no reply.
        """
        for attempt in count(1):
            try:
                response = await self._send(request)
            except httpx2.RequestError as error:
                raise self._unavailable(error) from None
            reply = Reply(response.status_code, response.headers, response.content)
            wait = self._retry_wait(request, reply, attempt)
            if wait is None:
                break
            await self._sleep(wait)
        return reply

    def _retry_wait(self, request: Request, reply: Reply, attempt: int) -> float | None:
        """Seconds until the next attempt; None if there is no further attempt."""
        if reply.status not in RETRY_STATUSES or not request.retryable or attempt >= self.attempts:
            return None
        wait = reply.retry_after
        if wait is None:
            wait = 0.25 * 2**attempt
        # A random part, so that clients that were refused together do not return together.
        return None if wait > self.timeout else wait * random.uniform(1.0, 1.1)

    def _http_arguments(self, request: Request) -> dict[str, Any]:
        headers = {"content-type": request.content_type} if request.body else {}
        url = self.url + request.path
        return {"method": request.method, "url": url, "content": request.body, "headers": headers}

    def _unavailable(self, error: httpx2.RequestError) -> UnavailableError:
        if isinstance(error, httpx2.TimeoutException):
            return UnavailableError(f"{self.url}: no answer within {self.timeout:g} s")
        if isinstance(error, httpx2.ConnectError):
            return UnavailableError(
                f"{self.url}: no server can be reached there ({error}); "
                "is adapterkit serve running, and is the URL right?"
            )
        return UnavailableError(f"{self.url}: the connection broke ({error})")


def _is_url(text: str) -> bool:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        return False
    valid_port = url.port is None or 0 < url.port < 65536
    return url.scheme in ("http", "https") and bool(url.host) and valid_port and not url.query


def _run(endpoint: Coroutine[Any, Any, T]) -> T:
    """The result of an endpoint of `Client`, which blocks where `AsyncClient` waits.

    It needs no event loop, so it also works in a thread in which one is running.
    """
    try:
        endpoint.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("an endpoint waits for something that does not block")


def _sync(
    endpoint: Callable[Concatenate[Endpoints, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """An endpoint as a method of `Client`."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _run(endpoint(self._endpoints, *args, **kwargs))

    update_wrapper(method, endpoint)
    return method


class Client(_BaseClient[httpx2.Client]):
    """A client of a server; any number of threads may share it."""

    _http_class = httpx2.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
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
    roll_out = _sync(Endpoints.roll_out)
    promote = _sync(Endpoints.promote)
    roll_back = _sync(Endpoints.roll_back)
    unload = _sync(Endpoints.unload)
    delete = _sync(Endpoints.delete)
    verify = _sync(Endpoints.verify)
    drift = _sync(Endpoints.drift)

    def models(self, page: int = 100) -> Iterator[dict[str, Any]]:
        """The plain backbone and all adapters that the key may use, in the order of their names.

        Args:
            page: Number of adapters that are fetched at a time.
        """
        after: str | None = ""
        while after is not None:
            models, after = _run(self._endpoints.page(after, page))
            yield from models

    async def _send(self, request: Request) -> httpx2.Response:
        return self._http.request(**self._http_arguments(request))

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _async(
    endpoint: Callable[Concatenate[Endpoints, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """An endpoint as a coroutine method of `AsyncClient`."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await endpoint(self._endpoints, *args, **kwargs)

    update_wrapper(method, endpoint)
    return method


class AsyncClient(_BaseClient[httpx2.AsyncClient]):
    """`Client` for asyncio."""

    _http_class = httpx2.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
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
    roll_out = _async(Endpoints.roll_out)
    promote = _async(Endpoints.promote)
    roll_back = _async(Endpoints.roll_back)
    unload = _async(Endpoints.unload)
    delete = _async(Endpoints.delete)
    verify = _async(Endpoints.verify)
    drift = _async(Endpoints.drift)

    async def models(self, page: int = 100) -> AsyncIterator[dict[str, Any]]:
        """The plain backbone and all adapters that the key may use, in the order of their names.

        Args:
            page: Number of adapters that are fetched at a time.
        """
        after: str | None = ""
        while after is not None:
            models, after = await self._endpoints.page(after, page)
            for model in models:
                yield model

    async def _send(self, request: Request) -> httpx2.Response:
        return await self._http.request(**self._http_arguments(request))

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
