"""The outermost middleware: request ids, and a log record for each request."""

from __future__ import annotations

import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..json_logs import log
from ..metrics.metrics import Metrics

REQUEST_ID = re.compile("[0-9A-Za-z-]{1,64}")
"""A valid `x-request-id` of a caller; any other value is replaced."""

UNLOGGED_PATHS = ("/health", "/ready", "/ping", "/metrics", "/v1/activity")
"""Paths that are requested all the time, and so are not logged."""


class RequestLog:
    """Middleware that gives each request an id, and counts and logs it without its texts.

    Args:
        app: The application.
        metrics: Counts the responses.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
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
                await self._app(scope, receive, send_with_id)
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
