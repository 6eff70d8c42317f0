"""Who calls: the API key of a request, and what it opens."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.convertors import StringConvertor, register_url_convertor

from .service import Service
from .tenants import Caller


class _Name(StringConvertor):
    """`name` or `tenant/name` in a path, so that what follows a name is not taken for it."""

    regex = "[^/]+(?:/[^/]+)?"


register_url_convertor("adapter", _Name())

bearer = HTTPBearer(auto_error=False, description="An API key, where the server has keys")


class DeniedError(Exception):
    """The caller is not known, or may not do this.

    Attributes:
        status: 401 for an unknown key, 403 for one that does not open this.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def service_of(request: Request) -> Service:
    """The service behind the app."""
    service: Service = request.app.state.service
    return service


def caller_of(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,
) -> Caller:
    """Who calls.

    Raises:
        DeniedError: The server has keys and this is none of them.
    """
    if service_of(request).keys is None and _is_foreign(request):
        raise DeniedError(403, "a page from elsewhere may not ask a server without keys")
    caller = service_of(request).caller(given.credentials if given else None)
    if caller is None:
        raise DeniedError(401, "send a known API key: Authorization: Bearer ak-...")
    request.state.facts = {"tenant": caller.tenant}
    return caller


def _is_foreign(request: Request) -> bool:
    """Whether a browser sent this for a page of another site."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


Who = Annotated[Caller, Depends(caller_of)]


def admin(caller: Who) -> Caller:
    """Who calls, where it is an admin.

    Raises:
        DeniedError: It is not.
    """
    if not caller.admin:
        raise DeniedError(403, "this needs an admin's API key")
    return caller
