"""The adapter that a request names: in its body, its path, its query or its headers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from ...errors import DataError
from ..keys.request_tenant import ADAPTER_HEADER
from .schemas import AdapterBody

QUERY, HEADER, PATH = "adapter_id", ADAPTER_HEADER, "name"

ADAPTER_PARAMETERS: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": place,
            "required": False,
            "description": "The adapter, if neither body nor path names it",
            "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        }
        for name, place in ((QUERY, "query"), (HEADER, "header"))
    ]
}
"""`openapi_extra` of the routes that read the adapter from query and header."""


async def named_adapter(request: Request) -> str | None:
    """The adapter that path, query or header of a request name; None if none of them does.

    Raises:
        DataError: They name different ones.
    """
    # Most requests have neither; parsing the query takes time in each of them.
    in_query = request.query_params.getlist(QUERY) if request.scope["query_string"] else []
    in_header = request.headers.getlist(HEADER)
    in_path = [name for name in (request.path_params.get(PATH),) if name is not None]
    names = [*in_path, *in_query, *in_header]
    if len(set(names)) > 1:
        raise _different(names)
    if names and not names[0]:
        raise DataError(f"the adapter in {QUERY} or {HEADER} is empty; name one, or leave it out")
    return names[0] if names else None


NamedAdapter = Annotated[str | None, Depends(named_adapter)]


def chosen_adapter(body: AdapterBody, named: str | None) -> str | None:
    """The adapter of a request; None for the plain backbone.

    Args:
        body: Its body.
        named: The adapter that path, query or header name.

    Raises:
        DataError: The body names another one.
    """
    inside = body.adapter
    if inside is not None and named is not None and inside != named:
        raise _different([inside, named])
    return named if inside is None else inside


def _different(names: list[str]) -> DataError:
    first, other = list(dict.fromkeys(names))[:2]
    return DataError(
        f"the request names two adapters, {first!r:.80} and {other!r:.80}; name one, in the body "
        f"(adapter_id or model), the path, the query ({QUERY}) or the header {HEADER}"
    )
