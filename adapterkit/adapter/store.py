"""A store: named adapters in a folder, every version kept as it was published.

`tenant/name/1/`, `tenant/name/2/`, ... are adapter folders; `tenant/name/aliases.json` says which
version `latest` means, and any alias a user adds (`stable`). A version appears complete or not at
all, and only then an alias moves. Every change ends in a new `aliases.json`, so its file signature
tells a reader at the price of one `stat` that nothing has changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os.path import isdir, isfile, join
from pathlib import Path

from filelock import FileLock

from ..atomic import file_digest, write_file, write_folder
from ..backbone.geometry import Geometry
from ..errors import AdapterError, AdapterkitError, UnknownAdapterError, did_you_mean
from ..names import NAME, check_name
from .adapter import Adapter
from .card import CARD, read_parent
from .checksums import checksum_errors, folder_digest, with_checksums
from .folder import adapter_files
from .json_file import read_json
from .peft_format import CONFIG
from .remote_store import Remote, is_url
from .stacking import ParentRef
from .weights import WEIGHTS

ALIASES = "aliases.json"
LATEST = "latest"
VERSION = re.compile(r"[1-9][0-9]{0,8}")
ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")


@dataclass(frozen=True)
class Version:
    """One version of one adapter.

    Attributes:
        name: `tenant/name`, or `name` alone.
        number: Its number, from 1.
        folder: The adapter folder.
        digest: Of all the folder's files: a name published anew has another one.
    """

    name: str
    number: int
    folder: Path
    digest: str


@dataclass
class _CachedIndex:
    """What is known of one name while its `aliases.json` has one signature."""

    signature: tuple[int, int, int]
    aliases: dict[str, int]
    versions: set[int]
    found: dict[int, Version] = field(default_factory=dict)


class Store:
    """Adapters by name under one folder, or under a URL with a local copy of what was asked for.

    Any number of threads and processes may read and write at the same time.

    Args:
        root: The folder, which appears with the first adapter; or any fsspec URL
            (`s3://bucket/adapters`).
        cache: Where a URL's adapters are kept; a folder of the user's cache where left out.
    """

    def __init__(self, root: str | Path, cache: str | Path | None = None) -> None:
        self.remote = Remote(str(root)) if is_url(str(root)) else None
        self.root = Path(root) if self.remote is None else self.remote.cache(cache)
        self.display_name = str(root)
        # Single entries are read and set, each of which Python does in one step.
        self._indices: dict[str, _CachedIndex] = {}

    @property
    def n_cached(self) -> int:
        """Names whose aliases and versions are cached."""
        return len(self._indices)

    def publish(self, adapter: Adapter, geometry: Geometry) -> Path:
        """Saves an adapter as the next version of its name and makes it `latest`.

        Args:
            adapter: The adapter.
            geometry: Its backbone's.

        Returns:
            The version's folder.

        Raises:
            AdapterError: It cannot be written, or what it stands on is not in this store; what
                was there stays as it was.
        """
        if adapter.on_top_of is not None:
            self.parent_folder(ParentRef.of(adapter.on_top_of))
        return self.publish_files(adapter.name, adapter_files(adapter, geometry)).folder

    def publish_files(
        self,
        name: str,
        files: Mapping[str, bytes],
        check: Callable[[Path], object] | None = None,
    ) -> Version:
        """Publishes the files of an adapter folder as the next version, and makes it `latest`.

        Args:
            name: The adapter's name.
            files: Name in the folder to content.
            check: Called with the written folder before it appears under its name; what it raises
                ends the publishing, and nothing is left of it.

        Raises:
            AdapterError: It cannot be written; what was there stays as it was.
        """
        home = self.adapter_dir(name)
        with self._write_lock():
            number = max(self._versions(name), default=0) + 1
            folder = write_folder(home / str(number), with_checksums(files), check)
            if self.remote is not None:
                self.remote.push(folder, f"{name}/{number}")
            self._write_aliases(name, {**self._aliases(home / ALIASES), LATEST: number})
        return self.find(f"{name}@{number}")

    def alias(self, name: str, alias: str, version: int | None) -> None:
        """Points an alias at a version, or removes it.

        Args:
            name: The adapter's name.
            alias: The alias (`stable`); `latest` may be moved, not removed.
            version: The version; None removes the alias.

        Raises:
            AdapterkitError: It is no alias.
            UnknownAdapterError: There is no such adapter, version or alias.
        """
        if not ALIAS.fullmatch(alias) or (version is None and alias == LATEST):
            raise AdapterkitError(
                f"'{alias}' is not an alias one can {'set' if version else 'remove'}: expected a "
                "small letter, then up to 31 small letters, digits, '.', '_' or '-'"
            )
        with self._write_lock():
            shelf = self._cached_index(name)
            aliases = dict(shelf.aliases)
            if version is None:
                if aliases.pop(alias, None) is None:
                    raise UnknownAdapterError(f"'{name}' has no alias '{alias}'")
            elif version not in shelf.versions:
                raise UnknownAdapterError(f"'{name}' has no version '{version}'")
            else:
                aliases[alias] = version
            self._write_aliases(name, aliases)

    def roll_back(self, name: str) -> Version:
        """Makes the version before `latest` the latest again; no version is lost.

        Raises:
            UnknownAdapterError: There is no such adapter, or no version before.
        """
        with self._write_lock():
            shelf = self._cached_index(name)
            latest = shelf.aliases.get(LATEST, 0)
            before = max((v for v in shelf.versions if v < latest), default=None)
            if before is None:
                raise UnknownAdapterError(f"'{name}' has no version before {latest} to go back to")
            self._write_aliases(name, {**shelf.aliases, LATEST: before})
        return self.find(name)

    def delete(self, name: str, version: int | None = None) -> None:
        """Deletes a version, or a name with all its versions.

        Args:
            name: The adapter's name.
            version: Its number; None deletes them all.

        Raises:
            UnknownAdapterError: There is no such adapter or version.
            AdapterkitError: An alias still points at the version, or another adapter of this store
                stands on it (a remote store is not searched for one).
        """
        with self._write_lock():
            shelf, home = self._cached_index(name), self.root / name
            if version is not None and version not in shelf.versions:
                raise UnknownAdapterError(f"'{name}' has no version '{version}'")
            pointing = [alias for alias, number in shelf.aliases.items() if number == version]
            if pointing:
                raise AdapterkitError(
                    f"'{name}@{version}' is what '{pointing[0]}' means; point that elsewhere first"
                )
            doomed = sorted(shelf.versions) if version is None else [version]
            above = self._dependents(name, doomed) if self.remote is None else None
            if above is not None:
                which = name if version is None else f"{name}@{version}"
                raise AdapterkitError(f"'{above}' stands on '{which}'; delete that one first")
            # Names go first: a reader finds the whole version, or no longer finds it.
            if version is None:
                self._write_aliases(name, None)
            for number in doomed:
                if self.remote is not None:
                    self.remote.remove(f"{name}/{number}")
                shutil.rmtree(home / str(number), ignore_errors=True)
            if version is None:
                for folder in (home, home.parent) if "/" in name else (home,):
                    with suppress(OSError):  # another name lives there
                        folder.rmdir()
            else:
                self._write_aliases(name, shelf.aliases)

    def _dependents(self, name: str, doomed: Sequence[int]) -> str | None:
        """A version that could no longer be loaded without some versions of a name."""
        needed: dict[str, str] = {}
        for other in self.names():
            for number in sorted(self._versions(other) - (set(doomed) if other == name else set())):
                below = None
                with suppress(AdapterError):  # a broken folder stands on nothing
                    below = read_parent(self.root / other / str(number))
                if below is not None and below.name == name:
                    needed.setdefault(below.digest, f"{other}@{number}")
        if not needed:  # as for most, whose weights need not be read then
            return None
        home = self.root / name
        left = self._versions(name) - set(doomed)
        lost, kept = (
            {file_digest(file) for n in numbers if (file := home / str(n) / WEIGHTS).is_file()}
            for numbers in (doomed, left)
        )
        return next((above for digest, above in needed.items() if digest in lost - kept), None)

    def verify(self, reference: str) -> list[str]:
        """What differs between a version's files and the checksums they were published with.

        Raises:
            UnknownAdapterError: There is no such adapter.
        """
        return checksum_errors(self.find(reference).folder)

    def adapter_dir(self, name: str) -> Path:
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

    def find(self, reference: str) -> Version:
        """The version that `name`, `name@version` or `name@alias` means; `name` is `@latest`.

        Raises:
            AdapterkitError: That is no name.
            UnknownAdapterError: There is no such adapter or version. The message names no other
                adapter: it may be shown to a tenant.
        """
        name, at, wanted = reference.partition("@")
        shelf = self._cached_index(name)
        wanted = wanted if at else LATEST
        number = shelf.aliases.get(wanted) or (int(wanted) if VERSION.fullmatch(wanted) else 0)
        if number not in shelf.versions:
            known = [*(a for a, v in shelf.aliases.items() if v in shelf.versions)]
            known += map(str, sorted(shelf.versions))
            raise UnknownAdapterError(
                f"'{name}' has no version '{wanted}'; {did_you_mean(wanted, known)}"
            )
        if number not in shelf.found:
            folder = self.root / name / str(number)
            if self.remote is not None:
                self.remote.pull(f"{name}/{number}", folder)
            shelf.found[number] = Version(name, number, folder, folder_digest(folder))
            below = read_parent(folder) if self.remote is not None else None
            if below is not None:  # it is looked for beside the folder, so it must be here
                with suppress(AdapterkitError):
                    self.parent_folder(below)
        return shelf.found[number]

    def parent_folder(self, below: ParentRef) -> Path:
        """The folder of what an adapter stands on.

        Raises:
            AdapterError: There is none with those weights.
        """
        if self.remote is not None:
            for number in reversed(self.versions(below.name)[0]):
                folder = self.find(f"{below.name}@{number}").folder
                if file_digest(folder / WEIGHTS) == below.digest:
                    return folder
        return below.find([self.root])

    def path(self, reference: str) -> Path:
        """The folder of a reference, for a person: an unknown name is told the nearest one.

        Raises:
            AdapterkitError: That is no name.
            UnknownAdapterError: There is no such adapter or version.
        """
        try:
            return self.find(reference).folder
        except UnknownAdapterError:
            name, names = reference.partition("@")[0], self.names()
            if name in names:
                raise
            hint = did_you_mean(name, names) if names else "it holds none; is --store right?"
            raise UnknownAdapterError(
                f"there is no adapter '{name}' in the store {self.display_name}; {hint}"
            ) from None

    def names(self) -> list[str]:
        """Every adapter in the store; the price is one look a name, whatever it holds."""
        return sorted(self._walk() if self.remote is None else self.remote.names(ALIASES))

    def versions(self, name: str) -> tuple[list[int], dict[str, int]]:
        """The versions of a name, ascending, and its aliases.

        Raises:
            AdapterkitError: That is no name.
            UnknownAdapterError: There is no such adapter.
        """
        shelf = self._cached_index(name)
        return sorted(shelf.versions), dict(shelf.aliases)

    def _walk(self) -> Iterator[str]:
        for first in _folders(self.root):
            for name in (first, *(f"{first}/{second}" for second in _folders(self.root / first))):
                if NAME.fullmatch(name) and isfile(self.root / name / ALIASES):
                    yield name

    def _cached_index(self, name: str) -> _CachedIndex:
        """What is known of a name, read anew only where its aliases changed."""
        file = f"{self.root}/{check_name(name)}/{ALIASES}"  # asked all day: no path is built
        if self.remote is not None:
            self.remote.refresh(f"{name}/{ALIASES}", Path(file))
        try:
            status = os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            self._indices.pop(name, None)
            raise UnknownAdapterError(f"there is no adapter '{name}'") from None
        signature = (status.st_mtime_ns, status.st_ino, status.st_size)
        shelf = self._indices.get(name)
        if shelf is None or shelf.signature != signature:
            aliases = self._aliases(Path(file))
            shelf = _CachedIndex(signature, aliases, self._versions(name))
            if not shelf.versions:
                raise UnknownAdapterError(f"there is no adapter '{name}'")
            self._indices[name] = shelf
        return shelf

    def _versions(self, name: str) -> set[int]:
        if self.remote is not None:
            entries = self.remote.entries(name)
        else:
            home = self.root / name
            entries = [e.name for e in home.iterdir()] if home.is_dir() else []
            entries = [entry for entry in entries if (home / entry / CARD).is_file()]
        return {int(entry) for entry in entries if VERSION.fullmatch(entry)}

    def _aliases(self, file: Path) -> dict[str, int]:
        if not file.is_file():
            return {}
        aliases = read_json(file.parent, ALIASES)
        if not all(isinstance(version, int) for version in aliases.values()):
            raise AdapterError(f'{file}: expected version numbers, such as {{"latest": 1}}')
        return aliases

    def _write_aliases(self, name: str, aliases: Mapping[str, int] | None) -> None:
        """The one write that readers see; None takes the name away."""
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

    def _write_lock(self) -> FileLock:
        """One writer at a time, over threads and processes of this machine."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".lock")


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []


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
