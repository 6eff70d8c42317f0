"""Redirects that also hold below the prefix of a proxy."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RelativeRedirects:
    """Middleware that redirects to a path relative to the request (RFC 9110, section 10.2.2).

    Starlette redirects `/health/` to an absolute URL of this server. A proxy that serves it as
    `https://example.org/adapters/health/` would send its caller to a URL without the prefix.

    Args:
        app: The application, which redirects only to add or to remove a slash at the end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_relative(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 307:
                MutableHeaders(scope=message)["location"] = _without_slash(scope)
            await send(message)

        await self._app(scope, receive, send_relative)


def _without_slash(scope: Scope) -> str:
    """The path of a request with the other end, relative to it, and with its query."""
    path, query = scope["raw_path"].decode("ascii"), scope["query_string"].decode("ascii")
    last = path.rstrip("/").rpartition("/")[2]
    target = f"../{last}" if path.endswith("/") else f"./{last}/"
    return f"{target}?{query}" if query else target
