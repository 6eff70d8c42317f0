"""A store that lies elsewhere: any fsspec URL, with a local copy of what was asked for.

Versions never change, so a copy is good for ever; only `aliases.json` is looked at again. Object
stores have no rename: a version counts once `aliases.json`, written last, speaks of it.
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
"""Seconds for which an index is believed: what was published elsewhere is seen so much later."""

URL = re.compile(r"[a-z][a-z0-9+.-]*://.+")


def is_url(root: str) -> bool:
    """Whether a store's root is a URL and not a folder."""
    return URL.fullmatch(root) is not None


class Remote:
    """The far side of a store.

    Args:
        url: Any URL fsspec knows: `s3://bucket/adapters`, `hf://...`, `memory://...`.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        with self._told():
            self._files, self._root = url_to_fs(url)
        self._seen: dict[str, float] = {}

    def cache(self, folder: str | Path | None) -> Path:
        """Where its copies lie: the folder given, else one of the user's cache, named by URL."""
        if folder is not None:
            return Path(folder)
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return Path.home() / ".cache" / "adapterkit" / name

    def names(self, index: str) -> list[str]:
        """Every adapter that has an index file."""
        with self._told():
            found = [*self._glob(f"*/{index}"), *self._glob(f"*/*/{index}")]
        return [name for path in found if (name := _name(posixpath.dirname(path)))]

    def entries(self, name: str) -> list[str]:
        """What lies under a name."""
        with self._told():
            self._files.invalidate_cache()
            if not self._files.isdir(self._at(name)):
                return []
            return [
                posixpath.basename(p.rstrip("/")) for p in self._files.ls(self._at(name), False)
            ]

    def refresh(self, path: str, copy: Path) -> None:
        """Brings the copy of an index up to date, unless it was looked at a moment ago."""
        now = time.monotonic()
        if now - self._seen.get(path, -FRESH) < FRESH:
            return
        with self._told():
            content = self._files.cat_file(self._at(path)) if self._exists(path) else None
        if content is None:
            copy.unlink(missing_ok=True)
            self._seen.pop(path, None)  # names nobody has are not remembered
            return
        self._seen[path] = now
        if not copy.is_file() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_file(copy, content)

    def pull(self, path: str, folder: Path) -> None:
        """Copies a version here, whole or not at all; its checksums must be right.

        Raises:
            AdapterError: It is not there, or was damaged on the way.
        """
        if folder.is_dir() and self._read(f"{path}/{SUMS}") == (folder / SUMS).read_bytes():
            return
        with self._told():
            under = self._files.find(self._at(path))
        files = {posixpath.relpath(p, self._at(path)): p for p in under}
        if SUMS not in files or any(name.startswith("..") for name in files):
            raise AdapterError(f"{self.url}/{path}: not a whole adapter, {SUMS} is missing")
        with self._told():
            held = {name: self._files.cat_file(p) for name, p in files.items()}
        if folder.is_dir():  # the name was deleted and published anew
            folder.rename(folder.with_name(f".{folder.name}-{time.monotonic_ns()}"))
        write_folder(folder, held, _whole)

    def push(self, folder: Path, path: str) -> None:
        """Copies a version there, its checksums last."""
        inside = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        for file in sorted(inside, key=lambda p: p.name == SUMS):
            self.put(f"{path}/{file.relative_to(folder).as_posix()}", file)

    def put(self, path: str, file: Path | None) -> None:
        """Writes a file there; None removes it."""
        with self._told():
            if file is None:
                self._files.rm_file(self._at(path))
            else:
                self._files.makedirs(posixpath.dirname(self._at(path)), exist_ok=True)
                self._files.pipe_file(self._at(path), file.read_bytes())
        self._seen.pop(path, None)

    def remove(self, path: str) -> None:
        """Removes a version."""
        with self._told():
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
        with self._told():
            return self._files.cat_file(self._at(path)) if self._exists(path) else None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong over there, as one sentence."""
        try:
            yield
        except AdapterkitError:
            raise
        except ImportError as error:
            raise AdapterError(f"{self.url}: needs another package ({error})") from None
        except Exception as error:  # every file system has exceptions of its own
            raise AdapterError(f"{self.url}: cannot be reached ({error})") from None


def _whole(folder: Path) -> None:
    faults = checksum_errors(folder)
    if faults:
        raise AdapterError(f"damaged on the way: {'; '.join(faults)}")


def _name(path: str) -> str | None:
    try:
        return check_name(path)
    except AdapterkitError:
        return None
