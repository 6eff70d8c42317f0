"""The index of a store: its names, and the versions and aliases of each.

`tenant/name/aliases.json` holds the version of `latest` and of any alias a user adds (`stable`).
Every change of a name ends with a new `aliases.json`, so one `stat` of that file tells a reader
whether anything has changed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path

from filelock import FileLock

from ..atomic import sweep, write_file
from ..errors import AdapterError, UnknownAdapterError
from ..names import ALIASES, NAME, check_name
from .card import CARD
from .json_file import read_json
from .remote_store import Remote

LATEST = "latest"
VERSION = re.compile(r"[1-9][0-9]{0,8}")
ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")


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
        aliases: Alias to number of a version.
        versions: Numbers of its versions.
        found: The versions that were looked up.
    """

    signature: tuple[int, int, int]
    aliases: dict[str, int]
    versions: set[int]
    found: dict[int, Version] = field(default_factory=dict)


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
        return sorted(self._walk() if self.remote is None else self.remote.names(ALIASES))

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
            aliases = self.aliases(name)
            index = NameIndex(signature, aliases, self.versions(name))
            if not index.versions:
                raise UnknownAdapterError(f"there is no adapter '{name}'")
            self._indices[name] = index
        return index

    def versions(self, name: str) -> set[int]:
        """Numbers of the versions of a name, read now; none for an unknown name."""
        home, numbers = self.root / name, self._numbers(name)
        return {n for n in numbers if self.remote is not None or (home / f"{n}" / CARD).is_file()}

    def next_number(self, name: str) -> int:
        """The number of the next version of a name.

        It is above those of all versions, also of incomplete ones. Adapters may have such numbers
        for names (`acme/7` beside version 6 of `acme`); they are passed over.
        """
        home, numbers = self.root / name, self._numbers(name)
        named = {n for n in numbers if (home / f"{n}" / ALIASES).is_file()}
        number = max(numbers - named, default=0) + 1
        while number in named:
            number += 1
        return number

    def _numbers(self, name: str) -> set[int]:
        """The files and folders of a name that are called like versions."""
        if self.remote is not None:
            entries = self.remote.entries(name)
        else:
            home = self.root / name
            entries = [e.name for e in home.iterdir()] if home.is_dir() else []
        return {int(entry) for entry in entries if VERSION.fullmatch(entry)}

    def aliases(self, name: str) -> dict[str, int]:
        """Aliases of a name with the versions that they mean, read now; none for an unknown name.

        Raises:
            AdapterError: The file is garbled.
        """
        home = self.root / name
        if not (home / ALIASES).is_file():
            return {}
        aliases = read_json(home, ALIASES)
        if not all(isinstance(version, int) for version in aliases.values()):
            raise AdapterError(
                f'{home / ALIASES}: expected version numbers, such as {{"latest": 1}}'
            )
        return aliases

    def write_aliases(self, name: str, aliases: Mapping[str, int] | None) -> None:
        """Writes the file that makes a change visible to readers; None removes the name.

        Raises:
            AdapterError: It cannot be written.
        """
        file = self.root / name / ALIASES
        try:
            if aliases is None:
                file.unlink(missing_ok=True)
            else:
                write_file(file, (json.dumps(dict(aliases), indent=2) + "\n").encode())
        except OSError as error:
            raise AdapterError(f"{file}: cannot be written ({error.strerror})") from None
        if self.remote is not None:
            self.remote.put(f"{name}/{ALIASES}", None if aliases is None else file)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Allows one writer at a time among the threads and processes of this machine.

        What writers left that were killed is removed first.

        Args:
            name: The name that is changed.

        Raises:
            AdapterkitError: The name is not valid.
            AdapterError: The store cannot be written to.
        """
        home = self.root / check_name(name)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".lock"):
                if self.remote is None:  # a cache is also written without the lock, by readers
                    sweep(home)
                yield
        except OSError as error:
            raise AdapterError(f"{self.root}: cannot be written to ({error.strerror})") from None


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
