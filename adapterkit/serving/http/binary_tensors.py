"""The binary tensor extension of the Open Inference Protocol, as Triton's client sends texts.

A body is a JSON header of `Inference-Header-Content-Length` bytes, followed by the tensors that
have a `binary_data_size`. Each text of a tensor is its length (4 bytes, little endian) and its
UTF-8 bytes. The body is converted to JSON, which the routes read. Answers are JSON, which the
protocol always allows.
"""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_response
from .strict_json import parse_json

HEADER_LENGTH = "inference-header-content-length"
PATH = re.compile("/v2/models/.*/infer")


class BinaryTensors:
    """Middleware that converts bodies with binary tensors to JSON.

    Args:
        app: The application that reads the JSON.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_infer = scope["type"] == "http" and PATH.fullmatch(scope["path"]) is not None
        length = Headers(scope=scope).get(HEADER_LENGTH) if is_infer else None
        if length is None:
            await self._app(scope, receive, send)
            return
        try:
            content = to_json(await read_body(receive), int(length))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            await error_response(400, "the binary tensors are not valid")(scope, receive, send)
            return
        scope = {**scope, "headers": list(scope["headers"])}
        headers = MutableHeaders(scope=scope)
        headers["content-length"] = str(len(content))
        headers["content-type"] = "application/json"
        first = True

        async def receive_json() -> Message:
            nonlocal first
            if not first:
                return await receive()
            first = False
            return {"type": "http.request", "body": content, "more_body": False}

        await self._app(scope, receive_json, send)


def to_json(body: bytes, length: int) -> bytes:
    """Converts a body with binary tensors to JSON.

    Args:
        body: The JSON header, followed by the tensors in the order of the header.
        length: Number of bytes of the header.

    Raises:
        HTTPException: The header is not JSON.
        ValueError: The tensors do not match it.
    """
    header, end = parse_json(body[:length]), length
    for tensor in header["inputs"]:
        size = tensor.get("parameters", {}).pop("binary_data_size", None)
        if size is not None:
            start, end = end, end + _size(size)
            tensor["data"] = _texts(body, start, end)
    if end != len(body):
        raise ValueError("the tensors are not as long as the header says")
    return json.dumps(header).encode()


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("the size of a tensor is not a number of bytes")
    return value


def _texts(body: bytes, start: int, end: int) -> list[str]:
    """The texts of the tensor between two positions; its bytes are copied once."""
    texts = []
    while start < end:
        first = start + 4
        start = first + int.from_bytes(body[start:first], "little")
        if start > min(end, len(body)):
            raise ValueError("a text is longer than its tensor")
        texts.append(body[first:start].decode())
    return texts


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request."""
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)
