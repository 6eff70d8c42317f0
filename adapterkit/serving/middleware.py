"""The outermost middleware: limits of bodies, request ids, and a log record for each request."""

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

REQUEST_ID = re.compile("[0-9A-Za-z-]{1,64}")
"""A valid `x-request-id` of a caller; any other value is replaced."""

CHUNK_TIMEOUT = 10.0
"""Most seconds between two chunks of a body."""

BODY_TIMEOUT = 120.0
"""Most seconds for a whole body."""

UNLOGGED_PATHS = ("/health", "/ready", "/metrics", "/v1/activity")
"""Paths that are requested all the time, and so are not logged."""


class RequestLimits:
    """Middleware that limits the size and time of bodies, and logs requests without their texts.

    Args:
        app: The application.
        limits: Limits of one request.
        metrics: Counts the responses.
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
        request_id = headers.get("x-request-id", "")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        traces = self._metrics.traces
        name = f"{scope['method']} {scope['path']}"
        span: AbstractContextManager[dict[str, Any]] = nullcontext({})
        if traces is not None:
            span = traces.request(name, headers)
        try:
            with span as attributes:
                await self._app(scope, self._bounded(scope["path"], headers, receive), send_with_id)
                attributes |= {"status": status, **scope.get("state", {}).get("facts", {})}
        finally:
            self._metrics.request(status)
            if scope["path"] not in UNLOGGED_PATHS:
                facts = {
                    "request": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(1000 * (time.monotonic() - began), 1),
                    **scope.get("state", {}).get("facts", {}),
                }
                log.info("request", extra={"facts": facts})

    def _bounded(self, path: str, headers: Headers, receive: Receive) -> Receive:
        """`receive`, which raises if the body is too large, too slow or incomplete."""
        admin = path.startswith("/admin/")
        max_bytes = self._limits.upload_bytes if admin else self._limits.body_bytes
        declared = headers.get("content-length", "0")
        n_bytes = int(declared) if declared.isdigit() and int(declared) > max_bytes else 0
        complete, end = False, time.monotonic() + BODY_TIMEOUT

        async def bounded() -> Message:
            nonlocal n_bytes, complete
            if complete:  # the only further message is that the caller disconnects
                return await receive()
            if n_bytes > max_bytes:
                raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
            try:
                timeout = min(CHUNK_TIMEOUT, end - time.monotonic())
                async with asyncio.timeout(timeout):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body was sent too slowly") from None
            if message["type"] == "http.disconnect":
                raise HTTPException(400, "the caller disconnected before the body was complete")
            n_bytes += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if n_bytes > max_bytes:
                raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
            return message

        return bounded
