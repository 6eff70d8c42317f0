"""Files and folders that appear and disappear completely, even after a crash; and their hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from .errors import AdapterError, DataError

DRAFT = ".saving-"
"""How the names of files and folders begin while they are written."""

DELETED = ".deleted-"
"""How the names of folders begin while they are deleted."""


def write_folder(
    folder: Path, files: Mapping[str, bytes], check: Callable[[Path], object] | None = None
) -> Path:
    """Writes files to a new folder that appears complete or not at all, even after a crash.

    Args:
        folder: The folder.
        files: Content by path inside the folder.
        check: Called with the written folder before it gets its name. If it raises, the error is
            raised here too, and nothing is left.

    Returns:
        The folder.

    Raises:
        AdapterError: The folder exists already, or cannot be written.
    """
    if folder.exists():
        raise AdapterError(f"{folder}: something is there already; nothing was written")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder.parent))
        try:
            draft.chmod(0o755)
            _fill(draft, files)
            if check is not None:
                check(draft)
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        _sync(folder.parent)
        return folder
    except OSError as error:
        raise AdapterError(f"{folder}: cannot be written ({error.strerror})") from None


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files to an empty folder, and has them written to the disk.

    Raises:
        OSError: It cannot be written.
    """
    inner = sorted({(folder / name).parent for name in files} - {folder})
    for path in inner:
        path.mkdir(parents=True)
    for name, content in files.items():
        _write_synced(folder / name, content)
    for path in (*inner, folder):
        _sync(path)


def remove_folder(folder: Path) -> None:
    """Removes a folder: other processes see all of it or nothing, also if this one is killed.

    Raises:
        OSError: It is not there, or cannot be removed.
    """
    doomed = folder.with_name(f"{DELETED}{folder.name}-{uuid4().hex}")
    folder.rename(doomed)
    _sync(folder.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what processes left in a folder that were killed while they wrote or deleted.

    Nobody may be writing there at the same time.
    """
    with suppress(OSError):  # it does not exist, or is not ours
        for path in folder.iterdir():
            if not path.name.startswith((DRAFT, DELETED)):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | Iterable[bytes], *, is_secret: bool = False) -> None:
    """Writes a file that appears complete or not at all and replaces an earlier one.

    Args:
        path: The file.
        content: Its content, or the parts of it, which are written as they come.
        is_secret: Whether a new file is for its owner alone; an earlier one keeps its mode and its
            owner then.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f"{DRAFT}{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        if is_secret:
            draft.touch(0o600)
        _write_synced(draft, content)
        if is_secret and path.exists():
            _copy_access(path, draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def check_output(path: Path, suffixes: Collection[str], option: str = "") -> None:
    """Checks that a command can write a file, before it computes what goes there.

    Args:
        path: The file.
        suffixes: Endings of which it must have one.
        option: Option of the command line that named it, for the message.

    Raises:
        DataError: It has another ending, is a folder, or its folder does not exist.
    """
    where = f"{option} {path}".lstrip()
    if path.suffix not in suffixes:
        *most, last = suffixes
        endings = f"{', '.join(most)} or {last}" if most else last
        raise DataError(f"{where}: expected a file ending in {endings}")
    if path.is_dir():
        raise DataError(f"{where}: expected a file, this is a folder")
    if not path.parent.is_dir():
        raise DataError(f"{where}: there is no folder {path.parent}")


def write_output(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Writes a file that a user asked for, complete or not at all; its content is as in
    `write_file`.

    Raises:
        DataError: It cannot be written.
    """
    try:
        write_file(path, content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def file_digest(path: Path) -> str:
    """SHA-256 of the content of a file, as `sha256:...`.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def content_digest(content: bytes) -> str:
    """SHA-256 of the content of a file, as `sha256:...`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _write_synced(path: Path, content: bytes | Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)
        file.flush()
        os.fsync(file.fileno())


def _copy_access(source: Path, target: Path) -> None:
    """Gives a file the mode and the owner of another."""
    status = source.stat()
    target.chmod(status.st_mode & 0o7777)
    if sys.platform != "win32":
        os.chown(target, status.st_uid, status.st_gid)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
