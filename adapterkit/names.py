"""Names of adapters, which become paths in a store."""

from __future__ import annotations

import re

from .errors import AdapterkitError

BASE = "base"
"""The name of the plain backbone in requests; no adapter may have it."""

ALIASES = "aliases.json"
"""The file in the folder of a name that makes it an adapter of a store."""

PART = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME = re.compile(rf"(?!.*\.\.){PART}(/{PART})?")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
TENANT = re.compile(rf"(?!.*\.\.){PART}")


def check_name(name: str) -> str:
    """Checks that a name is a valid adapter name.

    Args:
        name: `tenant/name`, or `name` alone.

    Returns:
        The name.

    Raises:
        AdapterkitError: It is not valid, or is the name of the plain backbone.
    """
    if name == BASE:
        raise AdapterkitError(f"an adapter cannot be called '{BASE}', the plain backbone's name")
    if not NAME.fullmatch(name):
        raise AdapterkitError(
            f"'{name}' is not an adapter name: expected name or tenant/name, each of 1 to 64 "
            "letters, digits, '.', '_' or '-', beginning with a letter or digit and without '..'"
        )
    return name


def check_tenant(tenant: str) -> None:
    """Checks that a name is a valid tenant: the part of an adapter name before the slash.

    Raises:
        AdapterkitError: It is not valid.
    """
    if not TENANT.fullmatch(tenant):
        raise AdapterkitError(
            f"'{tenant}' is not a tenant: expected 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit and without '..'"
        )
