"""Who calls: the API key of a request, and what it opens."""

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
    """`name` or `tenant/name` in a path, so that what follows a name is not taken for it."""

    regex = "[^/]+(?:/[^/]+)?"


register_url_convertor("adapter", _Name())


class DeniedError(Exception):
    """The caller is not known, or may not do this.

    Attributes:
        status: 401 for an unknown key, 403 for one that does not open this.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def service_of(request: Request) -> Service:
    """The service behind the app; asynchronous, because FastAPI runs the others in threads."""
    service: Service = request.app.state.service
    return service


class ApiKeyAuth(SecurityBase):
    """The dependency that says who calls, and the description's word that a key may be needed.

    One object for both: each dependency of a route costs every request.
    """

    def __init__(self) -> None:
        self._bearer = HTTPBearer(
            auto_error=False, description="An API key, where the server has keys"
        )
        self.model = self._bearer.model
        self.scheme_name = self._bearer.scheme_name

    async def __call__(self, request: Request) -> Caller:
        """Who calls.

        Raises:
            DeniedError: The server has keys and this is none of them.
        """
        service = await service_of(request)
        if service.keys is None and _is_foreign(request):
            raise DeniedError(403, "a page from elsewhere may not ask a server without keys")
        given = await self._bearer(request)
        caller = service.caller(given.credentials if given else None)
        if caller is None:
            raise DeniedError(401, "send a known API key: Authorization: Bearer ak-...")
        request.state.facts = {"tenant": caller.tenant}
        return caller


def _is_foreign(request: Request) -> bool:
    """Whether a browser sent this for a page of another site."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


auth = ApiKeyAuth()

CallerDep = Annotated[Caller, Security(auth)]


async def admin(caller: CallerDep) -> Caller:
    """Who calls, where it is an admin.

    Raises:
        DeniedError: It is not.
    """
    if not caller.admin:
        raise DeniedError(403, "this needs an admin's API key")
    return caller
