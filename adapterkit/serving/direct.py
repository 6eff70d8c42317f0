"""The shortest way from a request to the routes that answer texts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from .access import door, service_of
from .shapes import Body


class Direct(APIRoute):
    """A route of `body`, `service` and `caller` that is called without solving dependencies.

    Solving them takes as long as all else that is done for a short text on the event loop, and
    while Python runs there, no lane can. The description is FastAPI's own, from the same signature.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = self.endpoint
        body: type[Body] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            service, caller = await service_of(request), await door(request)
            try:
                content = body.model_validate_json(await request.body())
            except ValidationError as error:
                raise RequestValidationError(error.errors()) from None
            response: Response = await endpoint(body=content, service=service, caller=caller)
            return response

        return handle
