"""Files that several machines write, by compare and swap: no change overwrites one it did not see.

A writer reads a file, decides, and writes only if the file is still as it was read. Stores have
different means for that:

- S3 compares the ETag (`If-Match`), or requires that there is no object (`If-None-Match: *`).
- Google Cloud Storage compares the generation (`ifGenerationMatch`), which is 0 if there is none.
- A local folder has a lock file, and the memory of this process a lock.
- Any other store has a lease (`lease.py`).
"""

from __future__ import annotations

import errno
import logging
import posixpath
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from ..atomic import content_digest, write_file
from .lease import Lease

PROBE = ".conditional-writes"
"""A file by which a store shows that it obeys conditions."""

log = logging.getLogger("adapterkit")


class SharedFile(NamedTuple):
    """A file as it was read.

    Attributes:
        content: The content.
        tag: What the store compares: an ETag, a generation, a digest. The content is at least as
            new as the tag.
    """

    content: bytes
    tag: str


class SharedFiles(ABC):
    """Compare and swap on the files of a store.

    Args:
        files: An fsspec file system.
    """

    def __init__(self, files: Any) -> None:
        self.files = files

    def read(self, path: str) -> SharedFile | None:
        """A file, or None if there is none."""
        try:
            tag = self._tag(path)  # before the content, which may only be newer than the tag
            return SharedFile(self.files.cat_file(path), tag)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, path: str, content: bytes) -> None:
        """Writes a file, whatever was there."""
        self.files.pipe_file(path, content)

    def swap(self, path: str, content: bytes, before: SharedFile | None) -> bool:
        """Writes a file if it is still as it was read.

        Args:
            path: The file.
            content: Its new content, which no other writer uses.
            before: The file as it was read; None if there was none.

        Returns:
            Whether it was written.
        """
        if self._write_if(path, content, None if before is None else before.tag):
            return True
        # A client that lost the answer to its write sends it again, and that one is refused.
        now = self.read(path)
        return now is not None and now.content == content

    @abstractmethod
    def _tag(self, path: str) -> str:
        """The tag of a file; raises FileNotFoundError."""

    @abstractmethod
    def _write_if(self, path: str, content: bytes, tag: str | None) -> bool:
        """Writes a file if it has the tag; None is for no file. Returns whether it was written."""


class LockedFiles(SharedFiles):
    """Files under a lock: it is held while a file is compared and written.

    Args:
        files: An fsspec file system.
        lock: The lock of a folder.
    """

    def __init__(self, files: Any, lock: Callable[[str], AbstractContextManager[object]]) -> None:
        super().__init__(files)
        self._lock = lock

    def put(self, path: str, content: bytes) -> None:
        """Writes a file, whatever was there."""
        self.files.makedirs(posixpath.dirname(path), exist_ok=True)
        super().put(path, content)

    def _tag(self, path: str) -> str:
        return content_digest(self.files.cat_file(path))

    def _write_if(self, path: str, content: bytes, tag: str | None) -> bool:
        with self._lock(posixpath.dirname(path)):
            now = self.read(path)
            if (None if now is None else now.tag) != tag:
                return False
            self.put(path, content)
            return True


class LocalFiles(LockedFiles):
    """Files of a folder of this machine, or one that is mounted.

    Args:
        files: fsspec's local file system.
        root: The folder.
    """

    def __init__(self, files: Any, root: str) -> None:
        super().__init__(files, lambda _: FileLock(Path(root, ".lock")))
        self._root = Path(root)

    def put(self, path: str, content: bytes) -> None:
        """Writes a file, whatever was there; readers see all of it or nothing."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_file(Path(path), content)

    def _write_if(self, path: str, content: bytes, tag: str | None) -> bool:
        self._root.mkdir(parents=True, exist_ok=True)
        return super()._write_if(path, content, tag)


class ConditionalFiles(SharedFiles):
    """Files of a store that compares and writes in one request."""

    wrong_tag: str
    """A tag that no file has."""

    def obeys(self, path: str) -> bool:
        """Whether the store obeys conditions, which some accept and ignore.

        Args:
            path: A file that is written for that.
        """
        try:
            self._write_if(path, b"", None)
            return not (
                self._write_if(path, b"", None) or self._write_if(path, b"", self.wrong_tag)
            )
        except OSError as error:
            if error.errno == errno.ENOSYS:  # NotImplemented, 501
                return False
            raise


class S3Files(ConditionalFiles):
    """Files of S3, or of a store with its protocol, through s3fs.

    See "How to prevent object overwrites with conditional writes" in the user guide of Amazon S3.
    """

    wrong_tag = '"00000000000000000000000000000000"'

    def _tag(self, path: str) -> str:
        info = self.files.info(path, refresh=True)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return str(info["ETag"])

    def _write_if(self, path: str, content: bytes, tag: str | None) -> bool:
        condition = {"mode": "create"} if tag is None else {"IfMatch": tag}
        try:
            self.files.pipe_file(path, content, **condition)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if tag is None:  # there is no bucket
                raise
            return False
        except OSError as error:
            response = getattr(error.__cause__, "response", None) or {}
            code = response.get("Error", {}).get("Code")
            # A conflict: another write of this object is under way.
            if code in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            raise
        return True


class GcsFiles(ConditionalFiles):
    """Files of Google Cloud Storage, through gcsfs.

    See "Request preconditions" and `Objects: insert` in its JSON API.
    """

    wrong_tag = "1"

    def _tag(self, path: str) -> str:
        self.files.invalidate_cache()
        info = self.files.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return str(info["generation"])

    def _write_if(self, path: str, content: bytes, tag: str | None) -> bool:
        bucket, _, key = path.partition("/")
        try:
            self.files.call(
                "POST",
                f"{self.files._location}/upload/storage/v1/b/{{}}/o",
                bucket,
                uploadType="media",
                name=key,
                ifGenerationMatch=tag or "0",
                headers={"Content-Type": "application/octet-stream"},
                data=content,
            )
        except FileExistsError:  # 412
            return False
        return True


MEMORY = threading.Lock()
"""The lock of fsspec's file system in memory, which all stores of this process share."""


def shared_files(files: Any, root: str) -> SharedFiles:
    """Compare and swap by the means that a store has.

    Args:
        files: An fsspec file system.
        root: The store's folder in it, to which a file may be written.
    """
    protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
    if protocols & {"file", "local"}:
        return LocalFiles(files, root)
    if "memory" in protocols:
        return LockedFiles(files, lambda _: MEMORY)
    for protocol, kind in (("s3", S3Files), ("gs", GcsFiles)):
        if protocol in protocols:
            conditional = kind(files)
            if conditional.obeys(f"{root}/{PROBE}"):
                return conditional
            log.warning(
                f"{protocol}://{root}: the store ignores conditional writes (If-Match), so its "
                "writers take turns by lease files; let one machine publish if you can"
            )
    return LockedFiles(files, Lease(files))
