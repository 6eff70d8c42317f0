"""`aliases.json`: the version that `latest` and each alias of a name means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ..errors import AdapterError

LATEST = "latest"
ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")

CHANGE = "_change"
"""Key of a random number, which is another one after each change in a shared store. So no change
gives a file that was there before, and a writer can recognise its own. It is not a valid alias."""


def parse_aliases(content: Mapping[str, Any], where: object) -> dict[str, int]:
    """The aliases in the JSON object of the file.

    Args:
        content: The object.
        where: The file, for messages.

    Raises:
        AdapterError: A value is not a number.
    """
    if not all(isinstance(version, int) for version in content.values()):
        raise AdapterError(f'{where}: expected version numbers, such as {{"latest": 1}}')
    return {alias: version for alias, version in content.items() if alias != CHANGE}


def aliases_to_json(aliases: Mapping[str, int]) -> bytes:
    """The content of the file."""
    return (json.dumps(dict(aliases), indent=2) + "\n").encode()


def read_changed_aliases(content: bytes, where: str) -> dict[str, int]:
    """The aliases in a file of a shared store.

    Raises:
        AdapterError: It is garbled.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(parsed, dict):
        raise AdapterError(f"{where}: expected a JSON object")
    return parse_aliases(parsed, where)


def changed_aliases_to_json(aliases: Mapping[str, int]) -> bytes:
    """The content of the file in a shared store, different at each call."""
    return aliases_to_json({**aliases, CHANGE: uuid4().int >> 75})
