"""What a writer of a store does, wherever the store is."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from ..errors import AdapterError, AdapterkitError, UnknownAdapterError
from .aliases import Aliases, Target, versions_of
from .store_index import Version

Check = Callable[[Path, int], object]
"""Looks at the folder of a new version and its number, and raises to refuse it."""

Change = Callable[[Aliases, set[int]], Mapping[str, Target]]
"""From aliases and versions to the new aliases. It is called again if another writer was faster."""


class StoreWriter(Protocol):
    """Changes a store: other writers may do so at the same time, and any may be killed."""

    def publish(self, name: str, files: Mapping[str, bytes], check: Check) -> Version:
        """Publishes files as the next version of a name, and makes it `latest`.

        Args:
            name: The name.
            files: Content by path, with checksums.
            check: Called with the written folder before it can be seen.

        Raises:
            AdapterError: It cannot be written. No reader sees anything of it then.
            UnreachableStoreError: The store cannot be reached.
        """

    def change_aliases(self, name: str, change: Change) -> None:
        """Changes the aliases of a name; no change that another writer makes is lost.

        Raises:
            AdapterkitError: The name is not valid.
            UnknownAdapterError: There is no such adapter.
        """

    def delete(self, name: str, version: int | None) -> None:
        """Deletes a version, or a name with all its versions.

        Raises:
            UnknownAdapterError: There is no such adapter or version.
            AdapterkitError: An alias points to the version.
        """

    def check_target(self, name: str) -> None:
        """Checks that an adapter can be published under a name.

        Raises:
            AdapterkitError: The name is not valid.
            AdapterError: There is something that is not part of a store or not a folder, or it
                cannot be written to.
        """


def next_number(numbers: Collection[int], named: Collection[int]) -> int:
    """The number of the next version.

    Args:
        numbers: Numbers of all versions, also of incomplete ones.
        named: Numbers that are the names of adapters (`acme/7` beside version 6 of `acme`).
    """
    number = max(numbers, default=0) + 1
    while number in named:
        number += 1
    return number


def check_deletable(
    name: str, version: int | None, aliases: Mapping[str, Target], versions: Collection[int]
) -> None:
    """Checks that a version, or a name with all versions (None), is there and can be deleted.

    Raises:
        UnknownAdapterError: There is no such adapter or version.
        AdapterkitError: An alias points to the version.
    """
    if not versions:
        raise UnknownAdapterError(f"there is no adapter '{name}'")
    if version is not None and version not in versions:
        raise UnknownAdapterError(f"'{name}' has no version '{version}'")
    pointing = [alias for alias, target in aliases.items() if version in versions_of(target)]
    if pointing:
        raise AdapterkitError(
            f"'{name}@{version}' is what '{pointing[0]}' means; point that elsewhere first"
        )


def check_writable(folder: Path) -> None:
    """Checks that a folder is there and can be written to, or can be created.

    Raises:
        AdapterError: It cannot.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise AdapterError(f"{nearest}: not a folder that can be written to; choose another")
