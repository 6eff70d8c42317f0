"""Changes of what the aliases of a name mean, for a writer of a store to apply."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from ..errors import AdapterkitError, UnknownAdapterError
from .aliases import ALIAS, LATEST, Aliases
from .rollout import Rollout
from .store_writer import Change


def pointed(name: str, alias: str, version: int | None) -> Change:
    """Points an alias at a version, or removes it if the version is None.

    Raises:
        AdapterkitError: The alias is not a valid one. The change raises `UnknownAdapterError` if
            there is no such version or alias.
    """
    if not ALIAS.fullmatch(alias) or (version is None and alias == LATEST):
        raise AdapterkitError(
            f"'{alias}' is not an alias one can {'set' if version else 'remove'}: expected a "
            "small letter, then up to 31 small letters, digits, '.', '_' or '-'"
        )

    def change(aliases: Aliases, versions: set[int]) -> Aliases:
        if version is None:
            _check_alias(name, alias, aliases)
            return {other: target for other, target in aliases.items() if other != alias}
        _check_versions(name, {version}, versions)
        return {**aliases, alias: version}

    return change


def rolled_out(name: str, alias: str, rollout: Rollout) -> Change:
    """Lets an alias mean the versions of a rollout.

    Raises:
        AdapterkitError: The alias cannot have a rollout. The change raises `UnknownAdapterError` if
            there is no such version.
    """
    if not ALIAS.fullmatch(alias) or alias == LATEST:
        raise AdapterkitError(
            f"'{alias}' cannot have a rollout: expected an alias other than latest, which every "
            "publication moves; choose one such as stable"
        )

    begun = replace(rollout, began=datetime.now(UTC).isoformat())

    def change(aliases: Aliases, versions: set[int]) -> Aliases:
        _check_versions(name, rollout.versions, versions)
        return {**aliases, alias: begun}

    return change


def promoted(name: str, alias: str, version: int | None, only: Rollout | None) -> Change:
    """Ends a rollout at one of its versions.

    Args:
        name: The adapter's name.
        alias: The alias.
        version: The version; if None, the only one beside the main version.
        only: End this rollout and no other; if None, whatever the alias means.

    The change raises `UnknownAdapterError` if there is no such alias, and `AdapterkitError` if it
    has no such rollout, or this no such version.
    """

    def change(aliases: Aliases, versions: set[int]) -> Aliases:
        _check_alias(name, alias, aliases)
        rollout = aliases[alias]
        if not isinstance(rollout, Rollout) or only not in (None, rollout):
            raise AdapterkitError(f"'{name}@{alias}' has no such rollout that could end")
        chosen = rollout.candidate if version is None else version
        if chosen is None or chosen not in rollout.versions:
            known = ", ".join(map(str, sorted(rollout.versions)))
            raise AdapterkitError(f"'{name}@{alias}': name the version to promote, one of {known}")
        return {**aliases, alias: chosen}

    return change


def rolled_back(name: str, alias: str) -> Change:
    """Ends the rollout of an alias at its main version; an alias of a single version means the one
    before. The change raises `UnknownAdapterError` if there is no such alias, or no earlier
    version."""

    def change(aliases: Aliases, versions: set[int]) -> Aliases:
        if alias != LATEST:
            _check_alias(name, alias, aliases)
        target = aliases.get(alias, 0)
        if isinstance(target, Rollout):
            return {**aliases, alias: target.main}
        before = max((version for version in versions if version < target), default=None)
        if before is None:
            raise UnknownAdapterError(f"'{name}' has no version before {target} to go back to")
        return {**aliases, alias: before}

    return change


def _check_alias(name: str, alias: str, aliases: Aliases) -> None:
    if alias not in aliases:
        raise UnknownAdapterError(f"'{name}' has no alias '{alias}'")


def _check_versions(name: str, wanted: set[int] | frozenset[int], versions: set[int]) -> None:
    missing = wanted - versions
    if missing:
        raise UnknownAdapterError(f"'{name}' has no version '{min(missing)}'")
