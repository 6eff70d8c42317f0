"""The tenant of a request, as far as its headers tell."""

from __future__ import annotations

from collections.abc import Iterable

from .api_keys import Keys

ADAPTER_HEADER = "x-adapter-id"
"""Names the adapter of a request, if neither body nor path nor query does."""

BEARER = "bearer "


def tenant_of(headers: Iterable[tuple[bytes, bytes]], keys: Keys | None) -> str | None:
    """The tenant whose adapters a request probably asks: the one in the name of the adapter in the
    header `x-adapter-id` or, without this header, the one of the API key.

    Args:
        headers: The headers of the request, with names in lower case.
        keys: The known keys, if the server has keys.

    Returns:
        The name of the tenant; None if it is not known.
    """
    by_name = dict(headers)
    adapter = by_name.get(ADAPTER_HEADER.encode(), b"").decode("latin-1")
    if adapter:
        return adapter.partition("/")[0]
    credentials = by_name.get(b"authorization", b"").decode("latin-1")
    if keys is None or credentials[: len(BEARER)].lower() != BEARER:
        return None
    caller = keys.find(credentials[len(BEARER) :].strip())
    return None if caller is None else caller.tenant.name
