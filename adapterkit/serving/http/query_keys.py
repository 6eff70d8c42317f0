"""Keys in the query of a request. Unknown ones are errors: a misspelt key must not be ignored."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.routing import BaseRoute

from ...errors import DataError, did_you_mean


async def check_query(request: Request) -> None:
    """The FastAPI dependency that checks the keys of a query.

    Raises:
        DataError: The description of the route has no such key.
    """
    if request.scope["query_string"]:
        check_query_of(request, request.scope["route"])


def check_query_of(request: Request, route: BaseRoute) -> None:
    """Checks the keys in the query of a request to a route. Raises as `check_query`."""
    paths: dict[str, Any] = request.app.openapi()["paths"]
    path: str = getattr(route, "path_format", "")
    operation = paths.get(path, {}).get(request.method.lower())
    if operation is None:  # not described, such as the page
        return
    known = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    for key in request.query_params:
        if key not in known:
            hint = did_you_mean(key, known) if known else "this path has no query"
            raise DataError(f"there is no query key {key!r:.80}; {hint}")
