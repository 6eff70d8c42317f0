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

Signature = tuple[int, int, int]
"""Time of the last change, inode and size of a file. Another file under the same name has another
one, so what was read of it is read again."""

Parents = dict[tuple[int, Signature], ParentRef | None]
"""What versions stand on, by their numbers and the signatures of their cards."""


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
        parents: The adapters that its versions stand on, once they were looked up.
    """

    signature: Signature
    aliases: Aliases
    versions: set[int]
    found: dict[int, Version] = field(default_factory=dict)
    parents: dict[int, ParentRef | None] | None = None

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
        self._parents: dict[str, Parents] = {}

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
            signature = _signature(file)
        except (FileNotFoundError, NotADirectoryError):
            self._forget(name)
            raise UnknownAdapterError(f"there is no adapter '{name}'") from None
        index = self._indices.get(name)
        if index is None or index.signature != signature:
            try:
                new = NameIndex(signature, self.aliases(name), self.versions(name))
            except UnreachableStoreError:  # what is loaded can still be used
                if index is None:
                    raise
                return index
            if not new.versions:
                self._forget(name)
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
        return {n for n in self.numbers(name) if isfile(f"{self.root}/{name}/{n}/{CARD}")}

    def parents(self, name: str) -> dict[int, ParentRef | None]:
        """The adapter that each version of a name in this folder stands on, ascending; None without
        one, or if its card is garbled.

        A name may have hundreds of versions and change several times a second, so a card is not
        read again when other versions come or go.
        """
        try:
            index = self.of(name)
        except AdapterkitError:  # its aliases are garbled, or it was deleted
            index = NameIndex((0, 0, 0), {}, self.versions(name))
        if index.parents is None:
            before, now = self._parents.get(name, {}), Parents()
            for number in sorted(index.versions):
                with suppress(OSError):  # it was deleted meanwhile
                    key = number, _signature(f"{self.root}/{name}/{number}/{CARD}")
                    now[key] = before[key] if key in before else self._parent(name, number)
            self._parents[name] = now
            index.parents = {number: parent for (number, _), parent in now.items()}
        return index.parents

    def _parent(self, name: str, number: int) -> ParentRef | None:
        try:
            return read_parent(self.root / name / f"{number}")
        except AdapterError:
            return None

    def _forget(self, name: str) -> None:
        self._indices.pop(name, None)
        self._parents.pop(name, None)

    def numbers(self, name: str) -> set[int]:
        """The files and folders of a name in this folder that are called like versions."""
        try:
            entries = os.listdir(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return set()
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


def _signature(file: str) -> Signature:
    status = os.stat(file)
    return status.st_mtime_ns, status.st_ino, status.st_size


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
