"""The caller of a request, identified by its API key before the body is read."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .api_keys import Caller
from .service import Service


class _Name(StringConvertor):
    """`name` or `tenant/name` in a path. It never includes a later part such as `/infer`."""

    regex = "[^/]+(?:/[^/]+)?"


register_url_convertor("adapter", _Name())


class DeniedError(Exception):
    """The caller is not known, or has no permission.

    Attributes:
        status: HTTP status: 401 for an unknown key, 403 for a missing permission.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def service_of(request: Request) -> Service:
    """The service of the application. It is a coroutine because FastAPI runs plain functions in
    threads."""
    service: Service = request.app.state.service
    return service


class Authentication:
    """Middleware that finds the caller from the headers, and refuses a body without reading it.

    A body needs a caller on every path, and on the paths of admins an admin. Which paths need a
    caller without a body is decided by the routes (`ApiKeyAuth`).

    Args:
        app: The application.
        service: Knows the keys.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        caller = self._find(headers)
        state["caller"] = caller
        if isinstance(caller, Caller):
            state["facts"] = {"tenant": caller.tenant}
        if has_body(headers):
            known = _known(caller)
            if is_admin_path(scope["path"]):
                _check_admin(known)
        await self._app(scope, receive, send)

    def _find(self, headers: Headers) -> Caller | DeniedError:
        if self._service.keys is None and _is_cross_site(headers):
            return DeniedError(403, "a page of another site may not use a server without keys")
        scheme, key = get_authorization_scheme_param(headers.get("authorization"))
        caller = self._service.caller(key if scheme.lower() == "bearer" else None)
        return caller or DeniedError(401, "send a known API key: Authorization: Bearer ak-...")


class ApiKeyAuth(SecurityBase):
    """The FastAPI dependency that gives the caller, and the security scheme of the description.

    It is one object, because every dependency of a route takes time in each request.
    """

    def __init__(self) -> None:
        bearer = HTTPBearer(auto_error=False, description="An API key, if the server has keys")
        self.model = bearer.model
        self.scheme_name = bearer.scheme_name

    async def __call__(self, request: Request) -> Caller:
        """The caller that `Authentication` has found.

        Raises:
            DeniedError: The server has keys and the request has none of them, or the server has no
                keys and a page of another site sent the request.
        """
        return _known(request.state.caller)


def has_body(headers: Headers) -> bool:
    """Whether a request has a body, which may be empty if its length is not declared."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def is_admin_path(path: str) -> bool:
    """Whether a path belongs to the routes of admins."""
    return path.startswith("/admin/")


def caller_of(scope: Scope) -> Caller | None:
    """The caller that `Authentication` has found, if there is one."""
    caller = scope.get("state", {}).get("caller")
    return caller if isinstance(caller, Caller) else None


def _known(caller: Caller | DeniedError) -> Caller:
    if isinstance(caller, DeniedError):
        raise caller
    return caller


def _check_admin(caller: Caller) -> Caller:
    if not caller.admin:
        raise DeniedError(403, "this needs an admin's API key")
    return caller


def _is_cross_site(headers: Headers) -> bool:
    """Whether a browser sent the request for a page of another site."""
    origin = headers.get("origin")
    return origin is not None and _netloc(origin) != headers.get("host")


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as an open bracket: not the address of this server
        return None


auth = ApiKeyAuth()

CallerDep = Annotated[Caller, Security(auth)]


async def admin(caller: CallerDep) -> Caller:
    """The caller, which must be an admin.

    Raises:
        DeniedError: It is not an admin.
    """
    return _check_admin(caller)
