"""Bodies as strict JSON of bounded structure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any

import numpy as np
from fastapi import HTTPException, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

MAX_PARTS = 20_000
"""Most lists, objects and keys of a body. They cost many times the memory and time of as many bytes
of text; a row needs a few of them, and a request has few rows."""


MARKS = b"[{:"
"""The bytes that each of them has, outside of strings."""


class StrictJsonRoute(APIRoute):
    """A route of FastAPI whose body is read by `parse_json`, as the routes of `FastPath` are."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI, which gets a request with a strict body."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictJsonRequest(request.scope, request.receive))

        return handle


class _StrictJsonRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


def parse_json(content: bytes) -> Any:
    """Reads a body that must be JSON with valid Unicode.

    Python's own parser accepts unpaired surrogates (`"\\ud800"`), which no answer can contain.

    Raises:
        HTTPException: It is something else, or has more than `MAX_PARTS` lists, objects and keys.
    """
    check_parts([content])
    try:
        return from_json(content)
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None


def check_parts(contents: Collection[bytes]) -> None:
    """Checks the structure of JSON texts before they are parsed.

    Raises:
        HTTPException: They have more than `MAX_PARTS` lists, objects and keys in all.
    """
    # Few requests have as many of the marks, even with those that are characters of a string.
    n_marks = sum(content.count(mark) for content in contents for mark in MARKS)
    if n_marks > MAX_PARTS and sum(map(_count_parts, contents)) > MAX_PARTS:
        raise HTTPException(422, f"the body has more than {MAX_PARTS} lists, objects and keys")


def _count_parts(content: bytes) -> int:
    """The number of lists, objects and keys in a JSON text."""
    unescaped = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    characters = np.frombuffer(unescaped, np.uint8)
    is_in_string = np.bitwise_xor.accumulate(characters == ord('"'))
    return sum(int(np.count_nonzero((characters == mark) & ~is_in_string)) for mark in MARKS)
