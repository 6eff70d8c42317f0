"""Changes of a store in a folder: one writer at a time among the processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os.path import isfile
from pathlib import Path

from filelock import FileLock

from ..atomic import remove_folder, sweep, write_file, write_folder
from ..errors import AdapterError, AdapterkitError, UnknownAdapterError
from ..names import ALIASES, check_name
from .aliases import LATEST, Target, aliases_to_json
from .checksums import folder_digest
from .children import find_child
from .peft_format import CONFIG
from .store_index import StoreIndex, Version
from .store_writer import Change, Check, check_deletable, check_writable, next_number


class LocalWriter:
    """Writes to a store in a folder.

    Numbers of versions are not used again as long as the name exists. An empty file stands in place
    of a deleted version that had the highest number.

    Args:
        index: The store's.
    """

    def __init__(self, index: StoreIndex) -> None:
        self._index = index
        self._root = index.root

    def publish(self, name: str, files: Mapping[str, bytes], check: Check) -> Version:
        """Publishes files as the next version of a name, as `StoreWriter` says."""
        self.check_target(name)
        with self._writing(name):
            self.check_target(name)  # another process may have published since
            aliases, number = self._index.aliases(name), self._next_number(name)
            folder = write_folder(
                self._root / name / str(number), files, lambda draft: check(draft, number)
            )
            try:
                self._write_aliases(name, {**aliases, LATEST: number})
            except AdapterError:
                remove_folder(folder)
                raise
            return Version(name, number, folder, folder_digest(folder))

    def change_aliases(self, name: str, change: Change) -> None:
        """Changes the aliases of a name, as `StoreWriter` says."""
        with self._writing(name):
            # Read now: the index would miss a change in the same tick of the file system's clock.
            aliases, versions = self._index.aliases(name), self._index.versions(name)
            if not versions or not (self._root / name / ALIASES).is_file():
                raise UnknownAdapterError(f"there is no adapter '{name}'")
            self._write_aliases(name, change(aliases, versions))

    def delete(self, name: str, version: int | None) -> None:
        """Deletes a version or a name, as `StoreWriter` says.

        Raises:
            AdapterkitError: Another adapter of the store stands on it.
        """
        with self._writing(name):
            aliases, versions = self._index.aliases(name), self._index.versions(name)
            check_deletable(name, version, aliases, versions)
            numbers = sorted(versions) if version is None else [version]
            child = find_child(self._index, name, numbers)
            if child is not None:
                which = name if version is None else f"{name}@{version}"
                raise AdapterkitError(f"'{child}' stands on '{which}'; delete that one first")
            # The aliases go first: a reader finds the complete version or none.
            home = self._root / name
            if version is None:
                self._write_aliases(name, None)
            for number in numbers:
                remove_folder(home / str(number))
            if version is None:
                for number in self._index.numbers(name):
                    if self._is_placeholder(home / str(number)):
                        (home / str(number)).unlink()
                for folder in (home, home.parent) if "/" in name else (home,):
                    with suppress(OSError):  # another adapter of the tenant is there
                        folder.rmdir()
            else:
                if self._next_number(name) <= version:
                    (home / str(version)).touch()
                self._write_aliases(name, aliases)

    def check_target(self, name: str) -> None:
        """Checks that an adapter can be published under a name, as `StoreWriter` says."""
        home = self._root / check_name(name)
        for folder in (home, *home.parents)[: name.count("/") + 2]:
            if (folder / CONFIG).exists():
                raise AdapterError(f"{folder}: is itself an adapter folder, not part of a store")
        check_writable(home)
        self._index.aliases(name)  # raises if they are garbled

    def _next_number(self, name: str) -> int:
        numbers = self._index.numbers(name)
        named = {n for n in numbers if isfile(f"{self._root}/{name}/{n}/{ALIASES}")}
        return next_number(numbers - named, named)

    @staticmethod
    def _is_placeholder(path: Path) -> bool:
        """Whether it is the empty file in place of a deleted version."""
        return path.is_file() and not path.stat().st_size

    def _write_aliases(self, name: str, aliases: Mapping[str, Target] | None) -> None:
        """Writes the file that makes a change visible to readers; None removes the name.

        Raises:
            AdapterError: It cannot be written.
        """
        file = self._root / name / ALIASES
        try:
            if aliases is None:
                file.unlink(missing_ok=True)
            else:
                write_file(file, aliases_to_json(aliases))
        except OSError as error:
            raise AdapterError(f"{file}: cannot be written ({error.strerror})") from None

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Allows one writer at a time among the threads and processes of this machine.

        What writers left that were killed is removed first.

        Args:
            name: The name that is changed.

        Raises:
            AdapterkitError: The name is not valid.
            AdapterError: The store cannot be written to.
        """
        home = self._root / check_name(name)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with FileLock(self._root / ".lock"):
                sweep(home)
                yield
        except OSError as error:
            raise AdapterError(f"{self._root}: cannot be written to ({error.strerror})") from None
