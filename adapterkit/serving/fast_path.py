"""The shortest way from a request to the routes that answer texts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .auth import auth, service_of
from .binary_tensors import whole
from .schemas import Body

Handle = Callable[[Request], Awaitable[Response]]


class FastPath:
    """Calls routes of `body`, `service` and `caller` without looking for them.

    To find a route and to solve its dependencies takes longer than all else that is done for a
    short text on the event loop, and while Python runs there, no lane can. The description is
    FastAPI's own, from the same signature; so is what any other method of these paths is told.

    Args:
        app: What answers everything else.
        routes: Routes that are posted to.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._handles = {
            route.path: _handle(route.endpoint) for route in routes if isinstance(route, APIRoute)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        posted = scope["type"] == "http" and scope["method"] == "POST"
        handle = self._handles.get(scope["path"]) if posted else None
        if handle is None:
            await self._app(scope, receive, send)
            return
        response = await handle(Request(scope, receive))
        await response(scope, receive, send)


def _handle(endpoint: Callable[..., Awaitable[Response]]) -> Handle:
    shape: type[Body] = get_type_hints(endpoint)["body"]

    async def handle(request: Request) -> Response:
        service, caller = await service_of(request), await auth(request)
        try:
            body: Any = shape.model_validate_json(await whole(request.receive))
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        return await endpoint(body=body, service=service, caller=caller)

    return handle
