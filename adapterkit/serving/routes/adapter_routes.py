"""Routes that answer with an adapter, wherever the request names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter

from ..bodies.adapter_choice import ADAPTER_PARAMETERS

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def adapter_route(router: APIRouter, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
    """Decorates the function of a POST route, which is found under two paths: its own, where body,
    query or header name the adapter, and `/adapters/NAME` with its own.

    Args:
        router: The router that the route is added to.
        path: Its own path.
        options: Those of `APIRouter.post`.
    """

    def register(endpoint: Endpoint) -> Endpoint:
        for prefix in ("", "/adapters/{name:adapter}"):
            add = router.post(prefix + path, openapi_extra=ADAPTER_PARAMETERS, **options)
            add(endpoint)
        return endpoint

    return register
