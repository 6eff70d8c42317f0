"""What every request passes first: its size, its pace, its number and its line in the log."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .json_logs import log
from .metrics import Metrics
from .service import ServingLimits

NUMBER = re.compile("[0-9A-Za-z-]{1,64}")
"""What a request may call itself."""

PATIENCE = 10.0
"""Seconds between two pieces of a body."""

LONGEST = 120.0
"""Seconds for all of it."""

QUIET = ("/health", "/ready", "/metrics", "/v1/activity")
"""Paths that are asked all day and are not worth a line each."""


class RequestLimits:
    """Bounds bodies by size and time, and logs each request without its texts.

    Args:
        app: What it lets requests through to.
        limits: What one request may be.
        metrics: Where answers are counted.
    """

    def __init__(self, app: ASGIApp, limits: ServingLimits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        number = given if NUMBER.fullmatch(given) else uuid.uuid4().hex
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        traces = self._metrics.traces
        name = f"{scope['method']} {scope['path']}"
        spanned: AbstractContextManager[dict[str, Any]] = nullcontext({})
        if traces is not None:
            spanned = traces.request(name, headers)
        try:
            with spanned as traced:
                await self._app(scope, self._bounded(scope["path"], headers, receive), answer)
                traced |= {"status": status, **scope.get("state", {}).get("facts", {})}
        finally:
            self._metrics.request(status)
            if scope["path"] not in QUIET:
                facts = {
                    "request": number,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(1000 * (time.monotonic() - began), 1),
                    **scope.get("state", {}).get("facts", {}),
                }
                log.info("request", extra={"facts": facts})

    def _bounded(self, path: str, headers: Headers, receive: Receive) -> Receive:
        """Reads a body no larger and no slower than is fair."""
        admin = path.startswith("/admin/")
        most = self._limits.upload_bytes if admin else self._limits.body_bytes
        told = headers.get("content-length", "0")
        taken = int(told) if told.isdigit() and int(told) > most else 0
        whole, end = False, time.monotonic() + LONGEST

        async def bounded() -> Message:
            nonlocal taken, whole
            if whole:  # all that can come is the caller hanging up
                return await receive()
            if taken > most:
                raise HTTPException(413, f"the body is larger than {most} bytes")
            try:
                patience = min(PATIENCE, end - time.monotonic())
                async with asyncio.timeout(patience):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body came too slowly") from None
            if message["type"] == "http.disconnect":
                raise HTTPException(400, "the caller hung up before the body was whole")
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > most:
                raise HTTPException(413, f"the body is larger than {most} bytes")
            return message

        return bounded
