"""Changes of a remote store by any number of machines at the same time.

A publisher claims a number with a file that only one can create, and nobody else ever writes into
that folder; a number is never used again, also if its publisher was killed or the version was
deleted. The checksums are written last and make the version complete. Then `aliases.json` is
changed by compare and swap.

Whoever points an alias at a version reads the aliases, then looks whether the version is complete,
then swaps. Whoever deletes a version first removes its checksums, and then swaps the aliases for
the same ones: so one of the two sees the other.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from uuid import uuid4

from ..atomic import DRAFT, remove_folder, write_folder
from ..errors import AdapterError, AdapterkitError, UnknownAdapterError
from ..names import ALIASES, VERSION, check_name
from .aliases import (
    LATEST,
    Aliases,
    Target,
    changed_aliases_to_json,
    latest_of,
    read_changed_aliases,
    versions_of,
)
from .checksums import SUMS, folder_digest
from .peft_format import CONFIG
from .remote_store import CLAIM, Remote, set_aside_other
from .store_index import StoreIndex, Version
from .store_writer import Change, Check, check_deletable, check_writable, next_number

NAME_CLAIM = b"the name of an adapter\n"
"""Content of the claim of a name such as `acme/7`, which may not be a version of `acme`."""


class RemoteWriter:
    """Writes to a remote store.

    Args:
        index: The index of the local copies.
        remote: The remote side.
    """

    def __init__(self, index: StoreIndex, remote: Remote) -> None:
        self._root = index.root
        self._remote = remote

    def publish(self, name: str, files: Mapping[str, bytes], check: Check) -> Version:
        """Publishes files as the next version of a name, as `StoreWriter` says."""
        self.check_target(name)
        home = self._root / name
        draft = write_folder(home / f"{DRAFT}{uuid4().hex}", files)
        try:
            number = self._claim(name, lambda number: check(draft, number))
            for file in sorted(files, key=lambda file: file == SUMS):
                self._put(f"{name}/{number}/{file}", files[file])
            self._change(
                name,
                partial(_with_latest, number),
                lambda: {number} if self._remote.read(f"{name}/{number}/{SUMS}") else set(),
            )
            folder = home / str(number)
            set_aside_other(folder, files[SUMS])
            with suppress(OSError):  # another process has copied it already
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return Version(name, number, folder, folder_digest(folder))

    def change_aliases(self, name: str, change: Change) -> None:
        """Changes the aliases of a name, as `StoreWriter` says."""

        def change_known(aliases: Aliases, versions: set[int]) -> Mapping[str, Target]:
            if not versions:
                raise UnknownAdapterError(f"there is no adapter '{name}'")
            return change(aliases, versions)

        self._change(check_name(name), change_known, partial(self._remote.versions, name))

    def delete(self, name: str, version: int | None) -> None:
        """Deletes a version or a name, as `StoreWriter` says; its children are not searched."""
        numbers: set[int] = set()

        def without(aliases: Aliases, versions: set[int]) -> Mapping[str, Target]:
            check_deletable(name, version, aliases, versions)
            numbers.clear()
            numbers.update(versions if version is None else {version})
            return {} if version is None else aliases

        self._change(check_name(name), without, partial(self._remote.versions, name))
        self._hide(name, numbers)
        for number, files in self._remote.numbered(name).items():
            if number in numbers:
                self._remove_files(f"{name}/{number}", files)
                if (self._root / name / str(number)).is_dir():
                    remove_folder(self._root / name / str(number))

    def check_target(self, name: str) -> None:
        """Checks that an adapter can be published under a name, as `StoreWriter` says."""
        parts = check_name(name).split("/")
        for n in range(len(parts) + 1):
            folder = "/".join(parts[:n])
            if self._remote.read(f"{folder}/{CONFIG}".lstrip("/")) is not None:
                raise AdapterError(
                    f"{self._remote.url}/{folder}: is itself an adapter folder, not part of a store"
                )
        check_writable(self._root / name)  # for the local copy
        _ = self._remote.shared  # raises if it cannot be written to
        content = self._remote.read(f"{name}/{ALIASES}")
        if content is not None:
            read_changed_aliases(content, self._place(name))

    def _claim(self, name: str, check: Callable[[int], object]) -> int:
        """Claims the next number of a version for this publisher alone.

        Args:
            name: The name.
            check: Called with each number before it is claimed.
        """
        tenant, _, last = name.rpartition("/")
        if tenant and VERSION.fullmatch(last) and not self._create(f"{name}/{CLAIM}", NAME_CLAIM):
            raise AdapterError(f"'{name}' is a version of '{tenant}'; choose another name")
        folders = self._remote.numbered(name)
        named = {number for number, files in folders.items() if ALIASES in files}
        number = next_number(folders.keys() - named, named)
        while True:
            check(number)
            if self._create(f"{name}/{number}/{CLAIM}", f"{uuid4()}\n".encode()):
                return number
            number = next_number([number], named)

    def _change(self, name: str, change: Change, versions: Callable[[], set[int]]) -> None:
        """Changes the aliases of a name, and tries again if another writer was faster.

        Args:
            name: The name.
            change: The change.
            versions: Called after the aliases were read; the versions that `change` is given.
        """
        path = f"{name}/{ALIASES}"
        shared = self._remote.shared
        while True:
            with self._remote.as_adapterkit_error():
                before = shared.read(self._remote.at(path))
            content = b"{}" if before is None else before.content
            aliases = change(read_changed_aliases(content, self._place(name)), versions())
            with self._remote.as_adapterkit_error():
                new = changed_aliases_to_json(aliases)
                if shared.swap(self._remote.at(path), new, before):
                    break
            time.sleep(random.uniform(0, 0.05))
        self._remote.forget(path)

    def _hide(self, name: str, numbers: set[int]) -> None:
        """Removes the checksums of versions, so that they are no versions any more.

        Raises:
            AdapterkitError: Another writer pointed an alias at one of them at the same time; all
                are visible again then.
        """
        sums = {n: self._remote.read(f"{name}/{n}/{SUMS}") for n in numbers}
        for number in numbers:
            self._keep_claim(f"{name}/{number}")
            self._remove_files(f"{name}/{number}", [SUMS])

        def check(aliases: Aliases, _: set[int]) -> Mapping[str, Target]:
            pointing = [(a, n) for a, one in aliases.items() for n in versions_of(one) & numbers]
            if pointing:
                for number, content in sums.items():
                    if content is not None:
                        self._put(f"{name}/{number}/{SUMS}", content)
                alias, number = pointing[0]
                raise AdapterkitError(
                    f"'{name}@{number}' has just become what '{alias}' means; nothing was deleted"
                )
            return aliases

        self._change(name, check, set)

    def _keep_claim(self, path: str) -> None:
        """Has the number of a version of an earlier store claimed, so that it is not used again."""
        self._create(f"{path}/{CLAIM}", b"deleted\n")

    def _create(self, path: str, content: bytes) -> bool:
        with self._remote.as_adapterkit_error():
            return self._remote.shared.swap(self._remote.at(path), content, None)

    def _put(self, path: str, content: bytes) -> None:
        with self._remote.as_adapterkit_error():
            self._remote.shared.put(self._remote.at(path), content)

    def _remove_files(self, path: str, files: Iterable[str]) -> None:
        """Removes files of a version, but not its claim."""
        for file in files:
            if file == CLAIM:
                continue
            with self._remote.as_adapterkit_error(), suppress(FileNotFoundError):
                self._remote.files.rm_file(self._remote.at(f"{path}/{file}"))

    def _place(self, name: str) -> str:
        return f"{self._remote.url}/{name}/{ALIASES}"


def _with_latest(number: int, aliases: Aliases, versions: set[int]) -> Mapping[str, Target]:
    """The aliases after a version was published; a later version stays the latest."""
    if number not in versions:
        raise AdapterError(f"version {number} was deleted while it was published; publish it again")
    return {**aliases, LATEST: max(number, latest_of(aliases))}
