"""`aliases.json`: what `latest` and each alias of a name means, a version or a rollout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ..errors import AdapterError, AdapterkitError
from .rollout import Rollout

LATEST = "latest"
ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")

CHANGE = "_change"
"""Key of a random number, which is another one after each change in a shared store. So no change
gives a file that was there before, and a writer can recognise its own. It is not a valid alias."""


Target = int | Rollout
"""What an alias means. `latest` is always a version."""

Aliases = dict[str, Target]


def main_version(target: Target) -> int:
    """The version that an alias means where one is needed."""
    return target if isinstance(target, int) else target.main


def versions_of(target: Target) -> frozenset[int]:
    """All versions behind an alias."""
    return frozenset([target]) if isinstance(target, int) else target.versions


def latest_of(aliases: Mapping[str, Target]) -> int:
    """The version that `latest` means; 0 without one."""
    return main_version(aliases.get(LATEST, 0))


def parse_aliases(content: Mapping[str, Any], where: object) -> Aliases:
    """The aliases in the JSON object of the file.

    Args:
        content: The object.
        where: The file, for messages.

    Raises:
        AdapterError: A value is neither a number nor a rollout.
    """
    aliases: Aliases = {}
    for alias, value in content.items():
        if isinstance(value, int):
            aliases[alias] = value
        elif isinstance(value, Mapping) and alias != LATEST:
            aliases[alias] = _parse_rollout(value, f"{where}: {alias}")
        else:
            raise AdapterError(f'{where}: expected version numbers, such as {{"latest": 1}}')
    aliases.pop(CHANGE, None)
    return aliases


def _parse_rollout(content: Mapping[str, Any], where: str) -> Rollout:
    try:
        return Rollout.of_json(content)
    except (ValueError, AdapterkitError) as error:
        raise AdapterError(f"{where}: {error}") from None


def aliases_to_json(aliases: Mapping[str, Target]) -> bytes:
    """The content of the file."""
    content = {
        alias: target if isinstance(target, int) else target.to_json()
        for alias, target in aliases.items()
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def read_changed_aliases(content: bytes, where: str) -> Aliases:
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


def changed_aliases_to_json(aliases: Mapping[str, Target]) -> bytes:
    """The content of the file in a shared store, different at each call."""
    return aliases_to_json({**aliases, CHANGE: uuid4().int >> 75})
