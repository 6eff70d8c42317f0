"""Bodies of FastAPI's routes as strict JSON, as the routes of `FastPath` read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic_core import from_json


class StrictJsonRoute(APIRoute):
    """A route whose body must be JSON with valid Unicode.

    Python's parser accepts unpaired surrogates (`"\\ud800"`), which no answer can contain.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI, which gets a request with a strict body."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictJsonRequest(request.scope, request.receive))

        return handle


class _StrictJsonRequest(Request):
    async def json(self) -> Any:
        content = await self.body()
        try:
            return from_json(content)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None
