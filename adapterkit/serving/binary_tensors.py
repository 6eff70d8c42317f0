"""The binary tensor extension of the Open Inference Protocol, as Triton's client sends texts.

A body is a JSON header of `Inference-Header-Content-Length` bytes and then the tensors that name a
`binary_data_size`, a text each of 4 bytes of length (little endian) and as many of UTF-8. It is
turned into the JSON that the routes read; answers are JSON, which the protocol always allows.
"""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import fault_of

LENGTH = "inference-header-content-length"


class BinaryTensors:
    """Turns bodies with binary tensors into JSON.

    Args:
        app: What reads them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get(LENGTH) if scope["type"] == "http" else None
        if length is None:
            await self._app(scope, receive, send)
            return
        try:
            content = unfold(await whole(receive), int(length))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            await fault_of(400, "the binary tensors are not sound")(scope, receive, send)
            return
        scope = {**scope, "headers": list(scope["headers"])}
        headers = MutableHeaders(scope=scope)
        headers["content-length"] = str(len(content))
        headers["content-type"] = "application/json"
        first = True

        async def turned() -> Message:
            nonlocal first
            if not first:
                return await receive()
            first = False
            return {"type": "http.request", "body": content, "more_body": False}

        await self._app(scope, turned, send)


def unfold(body: bytes, length: int) -> bytes:
    """A body with binary tensors as JSON.

    Args:
        body: The JSON header, then the tensors in its order.
        length: Bytes of the header.

    Raises:
        ValueError: Header and tensors do not fit together.
    """
    header, rest = json.loads(body[:length]), body[length:]
    for tensor in header["inputs"]:
        size = tensor.get("parameters", {}).pop("binary_data_size", None)
        if size is not None:
            tensor["data"] = _texts(rest[:size], size)
            rest = rest[size:]
    if rest:
        raise ValueError("there is more than the header speaks of")
    return json.dumps(header).encode()


def _texts(piece: bytes, size: int) -> list[str]:
    if len(piece) != size:
        raise ValueError("a tensor is shorter than the header says")
    texts, at = [], 0
    while at < size:
        start = at + 4
        at = start + int.from_bytes(piece[at:start], "little")
        if at > size:
            raise ValueError("a text is shorter than its length")
        texts.append(piece[start:at].decode())
    return texts


async def whole(receive: Receive) -> bytes:
    """A request's body, as much as comes."""
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)
