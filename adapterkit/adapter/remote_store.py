"""A remote store: any fsspec URL, with a local copy of every version that was used.

`tenant/name/7/` is a version once its checksums are there, which its publisher writes last
(`remote_writer.py`). Versions never change, so a copy stays valid; only `aliases.json` is read
again.
"""

from __future__ import annotations

import hashlib
import logging
import posixpath
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ..atomic import DRAFT, write_file, write_folder
from ..errors import AdapterError, AdapterkitError, UnreachableStoreError
from ..names import ALIASES, VERSION, check_name
from .checksums import SUMS, checksum_errors
from .shared_files import SharedFiles, shared_files

FRESH = 2.0
"""Seconds until an index is read again: the longest delay until a new version is seen."""

CLAIM = ".claim"
"""The file by which a publisher claims the number of a version, or a name that is a number."""

URL = re.compile(r"[a-z][a-z0-9+.-]*://.+")

log = logging.getLogger("adapterkit")


def is_url(root: str) -> bool:
    """Whether a store's root is a URL and not a folder."""
    return URL.fullmatch(root) is not None


class Remote:
    """The remote side of a store.

    Args:
        url: Any URL fsspec knows: `s3://bucket/adapters`, `hf://...`, `memory://...`.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        with self.as_adapterkit_error():
            self.files, self._root = url_to_fs(url, use_listings_cache=False)
        self._read_at: dict[str, float] = {}
        self._is_reachable = True

    @cached_property
    def shared(self) -> SharedFiles:
        """The files that several writers change; the store is asked first what it can do.

        Raises:
            UnreachableStoreError: It cannot be reached.
            AdapterError: It cannot be written to.
        """
        with self.as_adapterkit_error():
            return shared_files(self.files, self._root.rstrip("/"))

    def cache(self, folder: str | Path | None) -> Path:
        """The folder of its local copies: the given one, else one in the user's cache."""
        if folder is not None:
            return Path(folder)
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return Path.home() / ".cache" / "adapterkit" / name

    def at(self, path: str) -> str:
        """A path in the store as one in its file system."""
        return f"{self._root.rstrip('/')}/{path}"

    def names(self) -> list[str]:
        """Every adapter that has aliases and a version, at the cost of one listing of all files."""
        named, published = set(), set()
        for path in self._find(""):
            folder, file = posixpath.split(path)
            if file == ALIASES:
                named.add(folder)
            elif file == SUMS and VERSION.fullmatch(posixpath.basename(folder)):
                published.add(posixpath.dirname(folder))
        return [name for name in named & published if _is_name(name)]

    def numbered(self, name: str) -> Mapping[int, set[str]]:
        """Files of the folders of a name that are called like versions; a path each in the folder.

        Some may be versions that are being published or were given up, others adapters with such a
        name (`acme/7` beside version 6 of `acme`), which have aliases.
        """
        folders: dict[int, set[str]] = defaultdict(set)
        for path in self._find(name):
            folder, _, file = path.partition("/")
            if file and VERSION.fullmatch(folder):
                folders[int(folder)].add(file)
        return folders

    def versions(self, name: str) -> set[int]:
        """Numbers of the complete versions of a name."""
        return {number for number, files in self.numbered(name).items() if SUMS in files}

    def refresh(self, path: str, copy: Path) -> None:
        """Updates the local copy of an index that is older than `FRESH`.

        While the store cannot be reached, the copy remains as it is.

        Raises:
            UnreachableStoreError: The store cannot be reached, and there is no copy.
        """
        now = time.monotonic()
        if now - self._read_at.get(path, -FRESH) < FRESH:
            return
        try:
            content = self.read(path)
        except UnreachableStoreError as error:
            self._note_reachable(False, str(error))
            if not copy.is_file():
                raise
            self._read_at[path] = time.monotonic()
            return
        self._note_reachable(True)
        if content is None:
            copy.unlink(missing_ok=True)
            self._read_at.pop(path, None)  # unknown names take no memory
            return
        self._read_at[path] = now
        if not copy.is_file() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_file(copy, content)

    def forget(self, path: str) -> None:
        """Has an index read again, because this process has changed it."""
        self._read_at.pop(path, None)

    def pull(self, path: str, folder: Path) -> None:
        """Copies a version from the remote side, completely or not at all.

        Raises:
            AdapterError: It is not there, or does not match its checksums.
            UnreachableStoreError: The store cannot be reached.
        """
        if folder.is_dir() and self._is_copy(path, folder):
            return
        files = set(self._find(path)) - {CLAIM}
        if SUMS not in files or any(name.startswith("..") for name in files):
            raise AdapterError(f"{self.url}/{path}: not a whole adapter, {SUMS} is missing")
        with self.as_adapterkit_error():
            content = {name: self.files.cat_file(self.at(f"{path}/{name}")) for name in files}
        set_aside_other(folder, content[SUMS])
        try:
            write_folder(folder, content, _check_sums)
        except AdapterError:
            # Another thread or process may have copied it at the same time.
            if not (folder.is_dir() and (folder / SUMS).read_bytes() == content[SUMS]):
                raise

    def read(self, path: str) -> bytes | None:
        """The content of a file; None if there is none."""
        with self.as_adapterkit_error():
            self.files.invalidate_cache()
            try:
                content: bytes = self.files.cat_file(self.at(path))
            except (FileNotFoundError, NotADirectoryError):
                return None
            return content

    @contextmanager
    def as_adapterkit_error(self) -> Iterator[None]:
        """Turns any error of the file system into one sentence."""
        try:
            yield
        except AdapterkitError:
            raise
        except ImportError as error:
            raise AdapterError(f"{self.url}: needs another package ({error})") from None
        except ValueError as error:  # no such protocol, or a wrong path
            raise AdapterError(f"{self.url}: cannot be used ({error})") from None
        except FileNotFoundError as error:
            raise AdapterError(f"{self.url}: there is no {error}") from None
        except PermissionError as error:
            raise AdapterError(f"{self.url}: permission denied ({error})") from None
        except Exception as error:  # every file system has exceptions of its own
            raise UnreachableStoreError(f"{self.url}: cannot be reached ({error})") from None

    def _find(self, path: str) -> list[str]:
        """Every file in a folder and below, relative to it; none if it does not exist.

        Files that a killed process was writing are left out.
        """
        top = self.at(path).rstrip("/")
        with self.as_adapterkit_error():
            self.files.invalidate_cache()
            try:
                found: list[Any] = self.files.find(top)
            except (FileNotFoundError, NotADirectoryError):
                return []
        paths = (posixpath.relpath(path, top) for path in found)
        return [path for path in paths if not posixpath.basename(path).startswith(DRAFT)]

    def _is_copy(self, path: str, folder: Path) -> bool:
        """Whether a folder has the version's content; also while the store cannot be reached,
        because the checksums of the folder are compared when it is loaded."""
        try:
            return self.read(f"{path}/{SUMS}") == (folder / SUMS).read_bytes()
        except UnreachableStoreError:
            return True

    def _note_reachable(self, is_reachable: bool, reason: str = "") -> None:
        """Logs the begin and the end of an outage."""
        if is_reachable == self._is_reachable:
            return
        self._is_reachable = is_reachable
        if is_reachable:
            log.warning(f"{self.url}: can be reached again")
        else:
            log.warning(f"{reason}; only adapters that were used before can be used")


def set_aside_other(folder: Path, sums: bytes) -> None:
    """Renames the copy of an earlier version of that number, whose name was deleted since then.

    Args:
        folder: The folder, which may be missing.
        sums: The checksums of the version that the number means now.
    """
    if folder.is_dir() and (folder / SUMS).read_bytes() != sums:
        folder.rename(folder.with_name(f".{folder.name}-{time.monotonic_ns()}"))


def _check_sums(folder: Path) -> None:
    errors = checksum_errors(folder)
    if errors:
        raise AdapterError(f"damaged on the way: {'; '.join(errors)}")


def _is_name(path: str) -> bool:
    try:
        check_name(path)
    except AdapterkitError:
        return False
    return True
