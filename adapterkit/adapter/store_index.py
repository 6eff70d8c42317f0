"""The index of a store: its names, and the versions and aliases of each.

`tenant/name/aliases.json` holds the version of `latest` and of any alias a user adds (`stable`).
Every change of a name ends with a new `aliases.json`, so one `stat` of that file tells a reader
whether anything has changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path

from ..errors import AdapterError, AdapterkitError, UnknownAdapterError, UnreachableStoreError
from ..names import ALIASES, NAME, VERSION, check_name
from .aliases import Aliases, main_version, parse_aliases
from .card import CARD, read_parent
from .json_file import read_json
from .remote_store import Remote
from .rollout import Rollout
from .stacking import ParentRef


@dataclass(frozen=True)
class Version:
    """One version of an adapter.

    Attributes:
        name: `tenant/name`, or `name` alone.
        number: Its number, from 1.
        folder: The adapter folder.
        digest: Digest of all files of the folder (`folder_digest`).
    """

    name: str
    number: int
    folder: Path
    digest: str


@dataclass
class NameIndex:
    """Aliases and versions of a name.

    Attributes:
        signature: Of its `aliases.json`. While the file has it, all that is here is valid.
        aliases: Alias to a version, or to a rollout of several.
        versions: Numbers of its versions.
        found: The versions that were looked up.
        parents: The adapters that its versions stand on, as far as they were looked up.
    """

    signature: tuple[int, int, int]
    aliases: Aliases
    versions: set[int]
    found: dict[int, Version] = field(default_factory=dict)
    parents: dict[int, ParentRef | None] = field(default_factory=dict)

    def number(self, wanted: str, position: float | None = None) -> int:
        """The number that an alias or a number in digits means; 0 if it means no version.

        Args:
            wanted: The alias, or the number.
            position: The place of a caller in a rollout (`Rollout.choose`); if None, a rollout
                means its main version.
        """
        target = self.aliases.get(wanted) or (int(wanted) if VERSION.fullmatch(wanted) else 0)
        if position is None or isinstance(target, int):
            number = main_version(target)
        else:
            number = target.choose(position)
        return number if number in self.versions else 0

    def rollout(self, alias: str) -> Rollout | None:
        """The rollout that an alias means, if all its versions are there."""
        target = self.aliases.get(alias)
        if target is None or isinstance(target, int) or not target.versions <= self.versions:
            return None
        return target


class StoreIndex:
    """Names, versions and aliases of the adapters in a store.

    Args:
        root: The store's folder.
        remote: Its remote side, of which the folder holds copies.
    """

    def __init__(self, root: Path, remote: Remote | None) -> None:
        self.root = root
        self.remote = remote
        # Threads share it: reading and setting a single entry is atomic in Python.
        self._indices: dict[str, NameIndex] = {}

    @property
    def n_cached(self) -> int:
        """Names whose aliases and versions are cached."""
        return len(self._indices)

    def names(self) -> list[str]:
        """Names of all adapters, sorted, at the cost of one `stat` each."""
        return sorted(self._walk() if self.remote is None else self.remote.names())

    def _walk(self) -> Iterator[str]:
        for first in _folders(self.root):
            for name in (first, *(f"{first}/{second}" for second in _folders(self.root / first))):
                if NAME.fullmatch(name) and isfile(self.root / name / ALIASES):
                    yield name

    def of(self, name: str) -> NameIndex:
        """Aliases and versions of a name, read again only if its `aliases.json` has changed.

        Raises:
            AdapterkitError: The name is not valid.
            UnknownAdapterError: There is no such adapter.
        """
        file = f"{self.root}/{check_name(name)}/{ALIASES}"  # a hot path: no Path is built
        if self.remote is not None:
            self.remote.refresh(f"{name}/{ALIASES}", Path(file))
        try:
            status = os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            self._indices.pop(name, None)
            raise UnknownAdapterError(f"there is no adapter '{name}'") from None
        signature = (status.st_mtime_ns, status.st_ino, status.st_size)
        index = self._indices.get(name)
        if index is None or index.signature != signature:
            try:
                new = NameIndex(signature, self.aliases(name), self.versions(name))
            except UnreachableStoreError:  # what is loaded can still be used
                if index is None:
                    raise
                return index
            if not new.versions:
                self._indices.pop(name, None)
                raise UnknownAdapterError(f"there is no adapter '{name}'")
            self._indices[name] = index = new
        return index

    def known(self, name: str) -> NameIndex | None:
        """The index of a name as it was last read; None if it was not."""
        return self._indices.get(name)

    def versions(self, name: str) -> set[int]:
        """Numbers of the versions of a name, read now; none for an unknown name."""
        if self.remote is not None:
            return self.remote.versions(name)
        return {n for n in self.numbers(name) if (self.root / name / f"{n}" / CARD).is_file()}

    def parents(self, name: str) -> dict[int, ParentRef | None]:
        """The adapter that each version of a name in this folder stands on; None without one, or
        if its card is garbled. A card is read once."""
        try:
            index = self.of(name)
        except AdapterkitError:  # its aliases are garbled, or it was deleted
            index = NameIndex((0, 0, 0), {}, self.versions(name))
        for number in index.versions - set(index.parents):
            index.parents[number] = None
            with suppress(AdapterError):
                index.parents[number] = read_parent(self.root / name / f"{number}")
        return {number: index.parents[number] for number in sorted(index.versions)}

    def numbers(self, name: str) -> set[int]:
        """The files and folders of a name in this folder that are called like versions."""
        home = self.root / name
        entries = [entry.name for entry in home.iterdir()] if home.is_dir() else []
        return {int(entry) for entry in entries if VERSION.fullmatch(entry)}

    def aliases(self, name: str) -> Aliases:
        """Aliases of a name with what they mean, read now; none for an unknown name.

        Raises:
            AdapterError: The file is garbled.
        """
        home = self.root / name
        if not (home / ALIASES).is_file():
            return {}
        return parse_aliases(read_json(home, ALIASES), home / ALIASES)


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
