"""A remote store: any fsspec URL, with a local copy of every version that was used.

Versions never change, so a copy stays valid; only `aliases.json` is read again. Object stores have
no rename, so `aliases.json` is written last: a version exists once it is named there.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import write_file, write_folder
from ..errors import AdapterError, AdapterkitError
from ..names import check_name
from .checksums import SUMS, checksum_errors

FRESH = 2.0
"""Seconds until an index is read again: the longest delay until a new version is seen."""

URL = re.compile(r"[a-z][a-z0-9+.-]*://.+")


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
        with self._as_adapter_error():
            self._files, self._root = url_to_fs(url)
        self._read_at: dict[str, float] = {}

    def cache(self, folder: str | Path | None) -> Path:
        """The folder of its local copies: the given one, else one in the user's cache."""
        if folder is not None:
            return Path(folder)
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return Path.home() / ".cache" / "adapterkit" / name

    def names(self, index: str) -> list[str]:
        """Every adapter that has an index file."""
        with self._as_adapter_error():
            found = [*self._glob(f"*/{index}"), *self._glob(f"*/*/{index}")]
        return [name for path in found if (name := _name(posixpath.dirname(path)))]

    def entries(self, name: str) -> list[str]:
        """Names of the files and folders of an adapter's name."""
        with self._as_adapter_error():
            self._files.invalidate_cache()
            if not self._files.isdir(self._at(name)):
                return []
            return [
                posixpath.basename(p.rstrip("/")) for p in self._files.ls(self._at(name), False)
            ]

    def refresh(self, path: str, copy: Path) -> None:
        """Updates the local copy of an index that is older than `FRESH`."""
        now = time.monotonic()
        if now - self._read_at.get(path, -FRESH) < FRESH:
            return
        with self._as_adapter_error():
            content = self._files.cat_file(self._at(path)) if self._exists(path) else None
        if content is None:
            copy.unlink(missing_ok=True)
            self._read_at.pop(path, None)  # unknown names take no memory
            return
        self._read_at[path] = now
        if not copy.is_file() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_file(copy, content)

    def pull(self, path: str, folder: Path) -> None:
        """Copies a version from the remote side, completely or not at all.

        Raises:
            AdapterError: It is not there, or does not match its checksums.
        """
        if folder.is_dir() and self._read(f"{path}/{SUMS}") == (folder / SUMS).read_bytes():
            return
        with self._as_adapter_error():
            paths = self._files.find(self._at(path))
        files = {posixpath.relpath(p, self._at(path)): p for p in paths}
        if SUMS not in files or any(name.startswith("..") for name in files):
            raise AdapterError(f"{self.url}/{path}: not a whole adapter, {SUMS} is missing")
        with self._as_adapter_error():
            content = {name: self._files.cat_file(p) for name, p in files.items()}
        if folder.is_dir():  # the name was deleted and published anew
            folder.rename(folder.with_name(f".{folder.name}-{time.monotonic_ns()}"))
        write_folder(folder, content, _check_sums)

    def push(self, folder: Path, path: str) -> None:
        """Copies a version to the remote side, its checksums last."""
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        for file in sorted(files, key=lambda p: p.name == SUMS):
            self.put(f"{path}/{file.relative_to(folder).as_posix()}", file)

    def put(self, path: str, file: Path | None) -> None:
        """Writes a remote file; None removes it."""
        with self._as_adapter_error():
            if file is None:
                self._files.rm_file(self._at(path))
            else:
                self._files.makedirs(posixpath.dirname(self._at(path)), exist_ok=True)
                self._files.pipe_file(self._at(path), file.read_bytes())
        self._read_at.pop(path, None)

    def remove(self, path: str) -> None:
        """Removes a remote version."""
        with self._as_adapter_error():
            self._files.rm(self._at(path), recursive=True)

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def _glob(self, pattern: str) -> Iterator[str]:
        self._files.invalidate_cache()
        return (posixpath.relpath(p, self._root) for p in self._files.glob(self._at(pattern)))

    def _exists(self, path: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._files.isfile(self._at(path)))

    def _read(self, path: str) -> bytes | None:
        with self._as_adapter_error():
            return self._files.cat_file(self._at(path)) if self._exists(path) else None

    @contextmanager
    def _as_adapter_error(self) -> Iterator[None]:
        """Turns any error of the file system into one sentence."""
        try:
            yield
        except AdapterkitError:
            raise
        except ImportError as error:
            raise AdapterError(f"{self.url}: needs another package ({error})") from None
        except Exception as error:  # every file system has exceptions of its own
            raise AdapterError(f"{self.url}: cannot be reached ({error})") from None


def _check_sums(folder: Path) -> None:
    errors = checksum_errors(folder)
    if errors:
        raise AdapterError(f"damaged on the way: {'; '.join(errors)}")


def _name(path: str) -> str | None:
    """The path as an adapter's name; None if it is not a valid one."""
    try:
        return check_name(path)
    except AdapterkitError:
        return None
