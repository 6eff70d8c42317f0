"""A short path from a request to the routes that answer texts."""

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

from ..bodies.adapter_choice import named_adapter
from ..bodies.schemas import Body
from ..http.binary_tensors import read_body
from ..http.query_keys import check_query_of
from ..http.strict_json import parse_json
from .auth import auth, service_of

Handler = Callable[[Request], Awaitable[Response]]


class FastPath:
    """Middleware that directly calls POST routes with the parameters `body`, `service`, `caller`
    and `named`.

    FastAPI's routing and dependency injection take longer than all other work of the event loop for
    a short text, and the lanes wait for the interpreter lock during that time. The routes are also
    registered with FastAPI, which describes them and answers the other HTTP methods of their paths.

    Args:
        app: The application, which answers all other requests.
        routes: The POST routes.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._handlers = {
            route.path: _handler(route) for route in routes if isinstance(route, APIRoute)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        handler = self._handlers.get(scope["path"]) if is_post else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)


def _handler(route: APIRoute) -> Handler:
    endpoint = route.endpoint
    body_type: type[Body] = get_type_hints(endpoint)["body"]

    async def handle(request: Request) -> Response:
        service, caller = await service_of(request), await auth(request)
        if request.scope["query_string"]:
            check_query_of(request, route)
        named = await named_adapter(request)
        try:
            body: Any = body_type.model_validate(parse_json(await read_body(request.receive)))
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            raise RequestValidationError(details) from None
        response: Response = await endpoint(body=body, service=service, caller=caller, named=named)
        return response

    return handle
