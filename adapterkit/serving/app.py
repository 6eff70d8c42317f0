"""The HTTP application: routes, the page, and every error as JSON."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import compile_path

from .._version import __version__
from ..errors import (
    AdapterError,
    AdapterkitError,
    OverloadedError,
    UnavailableError,
    UnknownAdapterError,
)
from . import admin as publishing
from . import open_inference as inference
from . import routes
from .auth import DeniedError
from .binary_tensors import BinaryTensors
from .errors import KINDS, fault_of
from .fast_path import FastPath
from .json_logs import log
from .middleware import RequestLimits
from .page import page
from .schemas import Fault
from .service import Service


class App(FastAPI):
    """FastAPI, but where everyone may ask the description asks for no key."""

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        if self.state.service.keys is None:
            for operation in (o for path in described["paths"].values() for o in path.values()):
                operation.pop("security", None)
        return described


def make_app(service: Service) -> FastAPI:
    """The application over a service; the engine runs while the application does."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.engine.drain()
        service.resident.close()
        if service.metrics.traces is not None:
            service.metrics.traces.close()

    app = App(
        title="adapterkit",
        version=__version__,
        description="Many tenants' adapters over one backbone, mixed in one batch.",
        lifespan=life,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # there are our own
        exception_handlers={**EXCEPTION_HANDLERS, Exception: _broken},
        strict_content_type=False,  # clients of the Open Inference Protocol send none
        responses={
            status: {"model": Fault, "description": KINDS[status]}
            for status in (400, 401, 403, 404, 413, 422, 429, 500, 503)
        },
    )
    app.state.service = service
    for router in (routes.direct, routes.router, inference.router, publishing.router):
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def show() -> Response:
        return page()

    app.add_middleware(FastPath, routes=routes.direct.routes)
    app.add_middleware(
        ExceptionMiddleware, handlers=EXCEPTION_HANDLERS
    )  # of what is called directly
    app.add_middleware(BinaryTensors)
    app.add_middleware(RequestLimits, limits=service.limits, metrics=service.metrics)
    if service.keys is None:
        # Without keys only this machine may ask: not a page elsewhere that renamed its own host.
        hosts = ["localhost", "127.0.0.1", "[::1]", "testserver"]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


async def _invalid(_: Request, error: Any) -> Response:
    faults = error.errors()
    for fault in faults:
        if fault["type"] == "json_invalid":
            return fault_of(400, f"the body is not JSON: {fault['ctx']['error']}")
    return fault_of(422, "; ".join(map(_sentence, faults[:5])))


async def _plain(request: Request, error: Any) -> Response:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        headers["allow"] = ", ".join(sorted(_methods(request)))
    return fault_of(error.status_code, str(error.detail), headers)


async def _denied(_: Request, error: Any) -> Response:
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    return fault_of(error.status, str(error), headers)


async def _told(_: Request, error: Exception) -> Response:
    if isinstance(error, OverloadedError):
        wait = max(1, math.ceil(error.retry_after))
        return fault_of(429, str(error), {"retry-after": str(wait)})
    if isinstance(error, UnavailableError):
        return fault_of(503, str(error), {"retry-after": "1"})
    if isinstance(error, UnknownAdapterError):
        return fault_of(404, str(error))
    if isinstance(error, AdapterError):  # in the store, so no fault of the caller
        log.error(str(error))
        return fault_of(500, "the adapter cannot be loaded; its owner finds why in the log")
    return fault_of(422, str(error))


async def _broken(_: Request, error: Exception) -> Response:
    return fault_of(500, "the server failed; the log says why")


EXCEPTION_HANDLERS: dict[Any, Any] = {
    RequestValidationError: _invalid,
    HTTPException: _plain,
    DeniedError: _denied,
    AdapterkitError: _told,
}
"""How each kind of error is told, wherever it comes from."""


def _methods(request: Request) -> set[str]:
    """What a path can be asked with, as the description of its closest route says."""
    routes: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    fitting = [
        path
        for path in routes
        if compile_path(path.replace("{name}", "{name:adapter}"))[0].match(request.url.path)
    ]
    closest = max(fitting, key=len, default=None)
    return {method.upper() for method in routes[closest]} if closest else set()


def _sentence(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"] if part != "body")
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])
