"""Pages of other sites that may use the server from a browser (CORS, in the Fetch standard)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ...errors import AdapterkitError

ANY = "*"
"""The origin that stands for every site."""

ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")

DEFAULT_PORTS = {"http": ":80", "https": ":443"}
"""Ports that a browser leaves out of an origin."""


def check_origins(origins: Collection[str], *, has_keys: bool) -> None:
    """Checks the origins that `--cors-origin` names.

    Args:
        origins: Each as a browser sends it, or `*`.
        has_keys: Whether the server has API keys.

    Raises:
        AdapterkitError: One is not an origin, or is every site on a server without keys.
    """
    for origin in origins:
        if origin == ANY:
            if not has_keys:
                raise AdapterkitError(
                    "--cors-origin *: every page on the web could use a server without keys; name "
                    "the origin of your page, or give --keys FILE"
                )
            continue
        scheme = origin.partition(":")[0]
        if not ORIGIN.fullmatch(origin) or origin.endswith(DEFAULT_PORTS.get(scheme, "/")):
            raise AdapterkitError(
                f"--cors-origin {origin}: expected an origin as a browser sends it, such as "
                "https://app.example.org or http://localhost:5173: in small letters, without a "
                "path and without the default port"
            )


def cors_options(origins: Collection[str]) -> dict[str, Any]:
    """The options of starlette's `CORSMiddleware`. Credentials of the browser (cookies) are never
    accepted: a page sends its API key itself.

    Args:
        origins: The origins, checked.
    """
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": [
            "authorization",
            "content-type",
            "inference-header-content-length",
            "x-adapter-id",
            "x-request-id",
            "x-session-id",
        ],
        "expose_headers": [
            "inference-header-content-length",
            "retry-after",
            "x-request-id",
            "x-truncated",
        ],
    }
