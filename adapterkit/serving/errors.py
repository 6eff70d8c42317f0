"""Every error as JSON: `error`, a sentence, and `error_type`, which goes with the status."""

from __future__ import annotations

from fastapi.responses import JSONResponse, Response

KINDS = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method",
    408: "timeout",
    413: "too_large",
    422: "validation",
    429: "overloaded",
    500: "backend",
    503: "unavailable",
}
"""Status to `error_type`."""


def fault_of(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as every route tells it."""
    kind = KINDS.get(status, "error")
    return JSONResponse({"error": message, "error_type": kind}, status, headers)
