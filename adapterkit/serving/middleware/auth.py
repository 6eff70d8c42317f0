"""The caller of a request, identified by its API key before the body is read."""

from __future__ import annotations

from dataclasses import replace
from random import getrandbits
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..keys.api_keys import Caller, Role
from ..service import Service


class _Name(StringConvertor):
    """`name` or `tenant/name` in a path. It never includes a later part such as `/infer`."""

    regex = "[^/]+(?:/[^/]+)?"


register_url_convertor("adapter", _Name())


SESSION_HEADER = "x-session-id"
"""Names whom a caller sends the request for (`Caller.session`)."""


class DeniedError(Exception):
    """The caller is not known, or has no permission.

    Attributes:
        status: HTTP status: 401 for an unknown key, 403 for a missing permission.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WrongKeyError(DeniedError):
    """The API key is not known; its answer is delayed (`WrongKeys`)."""


async def service_of(request: Request) -> Service:
    """The service of the application. It is a coroutine because FastAPI runs plain functions in
    threads."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]


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
        caller = self._find(scope["path"], headers)
        state["caller"] = caller
        if isinstance(caller, Caller):
            state["facts"] = {"tenant": caller.tenant.name, "key": caller.key_id}
        if has_body(headers):
            known = await _known(scope)
            if is_admin_path(scope["path"]):
                check_role(known, "publisher")
        await self._app(scope, receive, send)

    def _is_foreign(self, path: str, headers: Headers) -> bool:
        """Whether the page of another site sent a request that it may not send."""
        is_allowed = headers.get("origin") in self._service.origins and not is_admin_path(path)
        return not is_allowed and _is_cross_site(headers)

    def _find(self, path: str, headers: Headers) -> Caller | DeniedError:
        if self._service.keys is None and self._is_foreign(path, headers):
            return DeniedError(403, "a page of another site may not use a server without keys")
        scheme, key = get_authorization_scheme_param(headers.get("authorization"))
        key = key if scheme.lower() == "bearer" else ""
        caller = self._service.caller(key)
        if caller is None:
            error = WrongKeyError if key else DeniedError
            return error(401, "send a known API key: Authorization: Bearer ak-...")
        if caller.is_expired:
            return DeniedError(401, f"the API key was accepted until {caller.expires}")
        session = headers.get(SESSION_HEADER)
        if not session and not caller.key_id:  # nothing else tells callers apart
            session = f"{getrandbits(64):x}"
        return replace(caller, session=session) if session else caller


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
            OverloadedError: Too many requests with wrong keys wait for their answers.
        """
        return await _known(request.scope)


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


def client_host(scope: Scope) -> str:
    """The address of the client; behind a trusted proxy, the one that the proxy gives."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def check_role(caller: Caller, role: Role) -> None:
    """Checks that a caller may do what a role may do.

    Raises:
        DeniedError: It may not.
    """
    if not caller.has_role(role):
        article = "an" if role == "admin" else "a"
        raise DeniedError(403, f"this needs {article} {role}'s API key")


def check_permission(caller: Caller, role: Role, name: str) -> None:
    """Checks that a caller has a role and may use an adapter, whether it exists or not.

    Raises:
        DeniedError: It has not, or may not.
    """
    check_role(caller, role)
    if not caller.may_use(name.partition("@")[0]):
        patterns = ", ".join(caller.tenant.adapters) or "no adapter"
        raise DeniedError(403, f"this API key is for {patterns}, not for '{name}'")


async def _known(scope: Scope) -> Caller:
    caller: Caller | DeniedError = scope["state"]["caller"]
    if isinstance(caller, WrongKeyError):
        service: Service = scope["app"].state.service
        await service.wrong_keys.delay(client_host(scope))
    if isinstance(caller, DeniedError):
        raise caller
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
    check_role(caller, "admin")
    return caller
