"""The HTTP application: routes, middleware, the page, and the conversion of errors to JSON."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import compile_path

from .._version import __version__
from ..errors import (
    AdapterError,
    AdapterkitError,
    MissingBackboneError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
    UnknownAdapterError,
    UnreachableStoreError,
)
from .bodies.schemas import ErrorBody
from .description_page import description_page
from .http.binary_tensors import BinaryTensors
from .http.cors import cors_options
from .http.errors import ERROR_TYPES, error_response, openai_error
from .http.head_requests import HeadRequests
from .http.query_keys import check_query
from .http.relative_redirects import RelativeRedirects
from .http.validation_errors import validation_message
from .json_logs import log
from .middleware.auth import Authentication, DeniedError
from .middleware.body_limits import BodyLimits
from .middleware.disconnects import DisconnectWatch
from .middleware.fast_path import FastPath
from .middleware.request_log import RequestLog
from .page import page
from .routes import (
    admin,
    cards,
    models,
    open_inference,
    predictions,
    sagemaker,
    server_state,
    tokens,
    vectors,
)
from .service import Service


class App(FastAPI):
    """FastAPI, but the description of a server without keys requires no key."""

    def openapi(self) -> dict[str, Any]:
        description = super().openapi()
        if self.state.service.keys is None:
            for path in description["paths"].values():
                for operation in path.values():
                    operation.pop("security", None)
        return description


def make_app(service: Service) -> FastAPI:
    """The application of a service. It starts the engine, and drains it when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        if service.text_log is not None:
            await service.text_log.drain()
        await service.engine.drain()
        service.cache.close()
        if service.metrics.traces is not None:
            service.metrics.traces.close()

    app = App(
        title="adapterkit",
        version=__version__,
        servers=[{"url": "./"}],  # beside the description, also below the prefix of a proxy
        description="The adapters of many tenants, mixed in one batch over their backbones.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from another site
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the service has its own
        exception_handlers={
            **EXCEPTION_HANDLERS,
            Exception: _in_format_of_path(_unexpected_error),
        },
        strict_content_type=False,  # clients of the Open Inference Protocol send no content type
        responses={
            status: {"model": ErrorBody, "description": ERROR_TYPES[status]}
            for status in (400, 401, 403, 404, 408, 409, 413, 414, 422, 429, 431, 500, 503)
        },
    )
    app.state.service = service
    app.state.one_upload = asyncio.Lock()  # an upload is in memory while it is published
    direct = (
        predictions.router,
        vectors.router,
        tokens.router,
        sagemaker.invocation_router,
    )
    others = (
        models.router,
        server_state.router,
        sagemaker.router,
        cards.router,
        open_inference.router,
        admin.router,
    )
    for router in (*direct, *others):
        app.include_router(router, dependencies=[Depends(check_query)])

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page()

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return description_page(app.openapi())

    # Each middleware is outside of those before it.
    app.add_middleware(RelativeRedirects)
    app.add_middleware(FastPath, routes=[route for router in direct for route in router.routes])
    app.add_middleware(DisconnectWatch)
    app.add_middleware(BinaryTensors)
    app.add_middleware(Authentication, service=service)
    # FastAPI handles the errors of its own routes only, not those of the middleware.
    app.add_middleware(ExceptionMiddleware, handlers=EXCEPTION_HANDLERS)
    if service.keys is None:
        # Only this machine may use a server without keys. The check of the Host header prevents DNS
        # rebinding, with which a page of another site could reach it.
        hosts = ["localhost", "127.0.0.1", "[::1]", "testserver"]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_middleware(HeadRequests)
    app.add_middleware(BodyLimits, limits=service.limits)
    if service.origins:
        app.add_middleware(CORSMiddleware, **cors_options(service.origins))
    app.add_middleware(RequestLog, metrics=service.metrics)
    return app


async def _validation_error(_: Request, error: Any) -> Response:
    return error_response(422, validation_message(error.errors()))


async def _http_error(request: Request, error: Any) -> Response:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        headers["allow"] = ", ".join(sorted(_allowed_methods(request)))
    return error_response(error.status_code, str(error.detail), headers)


async def _denied_error(_: Request, error: Any) -> Response:
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    return error_response(error.status, str(error), headers)


RETRY_SOON = {"retry-after": "1"}


async def _adapterkit_error(_: Request, error: Exception) -> Response:
    if isinstance(error, OverloadedError):
        wait = max(1, math.ceil(error.retry_after))
        return error_response(429, str(error), {"retry-after": str(wait)})
    if isinstance(error, UnreachableStoreError):
        log.error(str(error))
        return error_response(503, "the store cannot be reached; try again later", RETRY_SOON)
    if isinstance(error, UnavailableError):
        return error_response(503, str(error), RETRY_SOON)
    if isinstance(error, TooLargeError):
        return error_response(413, str(error))
    if isinstance(error, UnknownAdapterError):
        return error_response(404, str(error))
    if isinstance(error, MissingBackboneError):
        return error_response(409, str(error))
    if isinstance(error, AdapterError):  # an error in the store, not of the caller
        log.error(str(error))
        return error_response(500, "the adapter cannot be loaded; the log of the server says why")
    return error_response(422, str(error))


async def _file_error(_: Request, error: Any) -> Response:
    """A store that cannot be written or read, such as a read-only one or a full disk."""
    reason = error.strerror or type(error).__name__
    log.error(f"{error.filename or 'a file'}: {reason}")
    return error_response(500, f"the server cannot write or read a file of the store ({reason})")


async def _unexpected_error(_: Request, error: Exception) -> Response:
    return error_response(500, "the server failed; the log says why")


Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


def _in_format_of_path(handler: Handler) -> Handler:
    """A handler that answers in OpenAI's format where the answers have it."""

    async def handle(request: Request, error: Any) -> Response:
        response = await handler(request, error)
        is_openai = request.url.path.endswith(vectors.OPENAI_PATH)
        return openai_error(response) if is_openai else response

    return handle


EXCEPTION_HANDLERS: dict[Any, Handler] = {
    RequestValidationError: _in_format_of_path(_validation_error),
    HTTPException: _in_format_of_path(_http_error),
    DeniedError: _in_format_of_path(_denied_error),
    AdapterkitError: _in_format_of_path(_adapterkit_error),
    OSError: _in_format_of_path(_file_error),
}
"""Handler by class of error."""


def _allowed_methods(request: Request) -> set[str]:
    """The HTTP methods of a path, from the description of the route that matches best."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    matches = [
        path
        for path in paths
        if compile_path(path.replace("{name}", "{name:adapter}"))[0].match(request.url.path)
    ]
    best = max(matches, key=len, default=None)
    methods = {method.upper() for method in paths[best]} if best else set()
    return methods | {"HEAD"} if "GET" in methods else methods
