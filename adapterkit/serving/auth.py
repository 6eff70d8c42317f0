"""The caller of a request, identified by its API key."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.convertors import StringConvertor, register_url_convertor

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


class ApiKeyAuth(SecurityBase):
    """The FastAPI dependency that finds the caller, and the security scheme of the description.

    It is one object, because every dependency of a route takes time in each request.
    """

    def __init__(self) -> None:
        self._bearer = HTTPBearer(
            auto_error=False, description="An API key, if the server has keys"
        )
        self.model = self._bearer.model
        self.scheme_name = self._bearer.scheme_name

    async def __call__(self, request: Request) -> Caller:
        """The caller of a request.

        Raises:
            DeniedError: The server has keys and the request has none of them, or the server has no
                keys and a page of another site sent the request.
        """
        service = await service_of(request)
        if service.keys is None and _is_cross_site(request):
            raise DeniedError(403, "a page of another site may not use a server without keys")
        bearer = await self._bearer(request)
        caller = service.caller(bearer.credentials if bearer else None)
        if caller is None:
            raise DeniedError(401, "send a known API key: Authorization: Bearer ak-...")
        request.state.facts = {"tenant": caller.tenant}
        return caller


def _is_cross_site(request: Request) -> bool:
    """Whether a browser sent the request for a page of another site."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


auth = ApiKeyAuth()

CallerDep = Annotated[Caller, Security(auth)]


async def admin(caller: CallerDep) -> Caller:
    """The caller, which must be an admin.

    Raises:
        DeniedError: It is not an admin.
    """
    if not caller.admin:
        raise DeniedError(403, "this needs an admin's API key")
    return caller
