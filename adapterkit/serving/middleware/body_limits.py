"""Limits of request bodies: their size by caller and route, and the time in which they arrive."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..serving_limits import ServingLimits
from .auth import caller_of, has_body, is_admin_path

BODY_SECONDS = 120.0
"""Most seconds for a whole body."""

ADMIN_BYTES = 65_536
"""Most bytes of an admin's body that is not an adapter."""

UNREAD_BYTES = 4_000_000
"""Most bytes of a refused body that are read and dropped before the connection is closed. A client
that is still sending would not see the answer otherwise."""

UNREAD_SECONDS = 2.0
"""Most seconds for that."""


class BodyLimits:
    """Middleware that limits bodies, and closes the connection after a body that was not read.

    Args:
        app: The application.
        limits: Limits of one request.
    """

    def __init__(self, app: ASGIApp, limits: ServingLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, self._limits)
        closes = False

        async def send_and_close(message: Message) -> None:
            nonlocal closes
            if message["type"] == "http.response.start":
                closes = not body.is_complete
                if closes:
                    MutableHeaders(scope=message)["connection"] = "close"
            elif closes and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.drop()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self._app(scope, body.receive, send_and_close)


class _Body:
    """The body of one request.

    Args:
        scope: Its ASGI scope.
        receive: Gives the parts of the body.
        limits: Limits of one request.
    """

    def __init__(self, scope: Scope, receive: Receive, limits: ServingLimits) -> None:
        self.is_complete = False
        self._scope = scope
        self._receive = receive
        self._limits = limits
        self._n_bytes = 0
        self._end = time.monotonic() + BODY_SECONDS

    async def receive(self) -> Message:
        """The next part.

        Raises:
            HTTPException: The body is too large, too slow or incomplete.
        """
        if self.is_complete:  # the only further message is that the caller disconnects
            return await self._receive()
        max_bytes = self._max_bytes()
        if max(self._n_bytes, self._declared_bytes()) > max_bytes:
            raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
        try:
            async with asyncio.timeout(
                min(self._limits.read_timeout, self._end - time.monotonic())
            ):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body was sent too slowly") from None
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the caller disconnected before the body was complete")
        self._note(message)
        if self._n_bytes > max_bytes:
            raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
        return message

    async def drop(self) -> None:
        """Reads what is left of a small body, and forgets it."""
        allowed = self._n_bytes + UNREAD_BYTES
        try:
            async with asyncio.timeout(UNREAD_SECONDS):
                while not self.is_complete and self._n_bytes <= allowed:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        return
                    self._note(message)
        except TimeoutError:
            return

    def _note(self, message: Message) -> None:
        self._n_bytes += len(message.get("body", b""))
        self.is_complete = not message.get("more_body", False)

    def _declared_bytes(self) -> int:
        declared = Headers(scope=self._scope).get("content-length", "0")
        return int(declared) if declared.isdigit() else 0

    def _max_bytes(self) -> int:
        """Most bytes of a body, by caller and route."""
        caller = caller_of(self._scope)
        if caller is None:
            return 0
        path = self._scope["path"]
        if not is_admin_path(path):
            return self._limits.body_bytes
        is_upload = self._scope["method"] == "PUT" and path.startswith("/admin/adapters/")
        may_upload = is_upload and caller.has_role("publisher")
        return self._limits.upload_bytes if may_upload else ADMIN_BYTES
