"""Errors as JSON: `error`, a message, and `error_type`, which depends on the status."""

from __future__ import annotations

import json

from fastapi.responses import JSONResponse, Response

ERROR_TYPES = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method",
    408: "timeout",
    409: "backbone_not_loaded",
    413: "too_large",
    414: "too_large",
    422: "validation",
    429: "overloaded",
    431: "too_large",
    500: "backend",
    503: "unavailable",
}
"""`error_type` by HTTP status."""


MAX_MESSAGE = 500
"""Most characters of a message, which may quote what the caller has sent."""


def one_line(message: str) -> str:
    """A message as one line of bounded length, which can be encoded."""
    line = " ".join(message[: 2 * MAX_MESSAGE].split())
    if len(line) > MAX_MESSAGE:
        line = line[:MAX_MESSAGE] + "..."
    return line.encode("utf-8", "replace").decode()


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The response of every route to an error: one line of bounded length."""
    error_type = ERROR_TYPES.get(status, "error")
    return JSONResponse({"error": one_line(message), "error_type": error_type}, status, headers)


def openai_error(response: Response) -> Response:
    """An error in the format of OpenAI, whose client shows `error.message`."""
    content = json.loads(bytes(response.body))
    error = {"message": content["error"], "type": content["error_type"]}
    headers = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
    return JSONResponse({**content, "error": error}, response.status_code, headers)
