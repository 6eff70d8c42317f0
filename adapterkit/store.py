"""A store: named adapters in a folder, every version kept as it was published.

`tenant/name/1/`, `tenant/name/2/`, ... are adapter folders; `tenant/name/aliases.json` says which
version `latest` means. A version appears complete or not at all, and only then the alias moves.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from os.path import isdir, isfile, join
from pathlib import Path

from .adapter import Adapter, check_name
from .disk import write_file
from .errors import AdapterError, AdapterkitError, UnknownAdapterError, did_you_mean
from .files import CARD, CONFIG, read_json, save_adapter
from .geometry import Geometry

ALIASES = "aliases.json"
LATEST = "latest"
VERSION = re.compile(r"[1-9][0-9]{0,8}")


class Store:
    """Adapters by name under one folder.

    Args:
        root: The folder; it appears with the first adapter.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def publish(self, adapter: Adapter, geometry: Geometry) -> Path:
        """Saves an adapter as the next version of its name and makes it `latest`.

        Args:
            adapter: The adapter.
            geometry: Its backbone's.

        Returns:
            The version's folder.

        Raises:
            AdapterError: It cannot be written; what was there stays as it was.
        """
        home = self.home(adapter.name)
        version = max(self._versions(home), default=0) + 1
        folder = save_adapter(adapter, home / str(version), geometry)
        self._alias(home, LATEST, version)
        return folder

    def home(self, name: str) -> Path:
        """The folder where the versions of a name lie, or will.

        Raises:
            AdapterkitError: That is no name.
            AdapterError: Something is in the way that is not part of a store.
        """
        home = self.root / check_name(name)
        for folder in (home, *home.parents)[: name.count("/") + 2]:
            if (folder / CONFIG).exists():
                raise AdapterError(f"{folder}: is itself an adapter folder, not part of a store")
        nearest = next(folder for folder in (home, *home.parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise AdapterError(f"{nearest}: not a folder that can be written to; choose another")
        return home

    def path(self, reference: str) -> Path:
        """The folder of `name`, `name@version` or `name@alias`; `name` alone is `@latest`.

        Raises:
            AdapterkitError: That is no name.
            UnknownAdapterError: There is no such adapter or version.
        """
        name, at, version = reference.partition("@")
        home = self.root / check_name(name)
        versions = self._versions(home)
        if not versions:
            names = self.names()
            hint = did_you_mean(name, names) if names else "it holds none; is --store right?"
            raise UnknownAdapterError(
                f"there is no adapter '{name}' in the store {self.root}; {hint}"
            )
        wanted = version if at else LATEST
        aliases = self._aliases(home)
        number = aliases.get(wanted) or (int(wanted) if VERSION.fullmatch(wanted) else None)
        if number not in versions:
            known = [*(k for k, v in aliases.items() if v in versions), *map(str, sorted(versions))]
            raise UnknownAdapterError(
                f"'{name}' has no version '{wanted}'; {did_you_mean(wanted, known)}"
            )
        return home / str(number)

    def names(self) -> list[str]:
        """Every adapter in the store."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[str]:
        for aliases in (*self.root.glob(f"*/{ALIASES}"), *self.root.glob(f"*/*/{ALIASES}")):
            with suppress(AdapterkitError):  # a folder that only looks like part of a store
                name = check_name(aliases.parent.relative_to(self.root).as_posix())
                if self._versions(aliases.parent):
                    yield name

    def _versions(self, home: Path) -> set[int]:
        if not home.is_dir():
            return set()
        return {
            int(entry.name)
            for entry in home.iterdir()
            if VERSION.fullmatch(entry.name) and (entry / CARD).is_file()
        }

    def _aliases(self, home: Path) -> dict[str, int]:
        if not (home / ALIASES).is_file():
            return {}
        aliases = read_json(home, ALIASES)
        if not all(isinstance(version, int) for version in aliases.values()):
            raise AdapterError(
                f'{home / ALIASES}: expected version numbers, such as {{"latest": 1}}'
            )
        return aliases

    def _alias(self, home: Path, alias: str, version: int) -> None:
        content = json.dumps({**self._aliases(home), alias: version}, indent=2) + "\n"
        try:
            write_file(home / ALIASES, content.encode())
        except OSError as error:
            raise AdapterError(f"{home / ALIASES}: cannot be written ({error.strerror})") from None


def find_folder(reference: str, store: Store) -> Path:
    """The folder a user means: a folder given as such, else a name in the store.

    Raises:
        UnknownAdapterError: It is neither.
    """
    if isfile(join(reference, CONFIG)):  # a text too long for a path is no path either
        return Path(reference)
    is_path = reference.startswith((".", "/"))
    if is_path or (isdir(reference) and not isdir(store.root / reference)):
        raise UnknownAdapterError(f"{reference}: not an adapter folder, {CONFIG} is missing")
    return store.path(reference)
