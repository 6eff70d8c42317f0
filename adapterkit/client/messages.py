"""HTTP requests and replies of a server, and the JSON in their bodies, without any I/O."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from ..errors import (
    AccessError,
    AdapterkitError,
    DataError,
    OverloadedError,
    ServerError,
    UnavailableError,
    UnknownAdapterError,
)

ERRORS: dict[str, type[AdapterkitError]] = {
    "malformed": DataError,
    "unauthorized": AccessError,
    "forbidden": AccessError,
    "not_found": UnknownAdapterError,
    "timeout": UnavailableError,
    "too_large": DataError,
    "validation": DataError,
    "unavailable": UnavailableError,
}
"""Exception by the `error_type` of a reply; `ServerError` for all other types."""


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    Attributes:
        method: GET, POST, PUT or DELETE.
        path: Path and query, quoted.
        body: Body.
        content_type: Media type of the body.
        retryable: Whether it is sent again after a status 429 or 503.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    retryable: bool = True


@dataclass(frozen=True)
class Reply:
    """One HTTP reply.

    Attributes:
        status: HTTP status.
        headers: Values by lower-case name.
        body: Body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before the next attempt; None if the server does not name a time."""
        value = self.headers.get("retry-after", "")
        if value.isascii() and value.isdigit():
            return float(value)
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time())
        except ValueError:
            return None


Send = Callable[[Request], Awaitable[Reply]]
"""Sends a request and returns its reply. Raises `UnavailableError` if there is none."""


def read_content(reply: Reply, prefix: str = "") -> Any:
    """The decoded body of a reply.

    Args:
        reply: The reply.
        prefix: Beginning of the message of an error.

    Raises:
        AdapterkitError: The reply is an error, or it does not come from an adapterkit server.
    """
    try:
        content = json.loads(reply.body)
        if reply.status < 400:
            return content
        message, kind = f"{prefix}{content['error']}", content["error_type"]
    except (ValueError, KeyError, TypeError):
        body = reply.body[:80].decode(errors="replace")
        message = f"the answer does not come from an adapterkit server: {reply.status} {body!r}"
        kind = ""
    if reply.status == 429:
        raise OverloadedError(message, reply.retry_after or 0.0)
    if reply.status == 503:  # uvicorn's own reply has no JSON
        raise UnavailableError(message)
    request_id = reply.headers.get("x-request-id")
    if kind not in ERRORS and request_id:
        message += f" (request {request_id})"
    raise ERRORS.get(kind, ServerError)(message)


def read_object(reply: Reply) -> dict[str, Any]:
    """The decoded body of a reply that is a JSON object. Raises as `read_content`."""
    content: dict[str, Any] = read_content(reply)
    return content


def to_json(content: Any, subject: str = "the request") -> bytes:
    """JSON of a body, or of a part of it.

    Args:
        content: Plain values.
        subject: How messages call them.

    Raises:
        DataError: They cannot be written as JSON.
    """
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # a lone surrogate is a ValueError as well
        raise DataError(f"{subject} cannot be sent as JSON ({error})") from None
