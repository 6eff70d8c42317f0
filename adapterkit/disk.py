"""Files and folders that appear complete or not at all, also after a crash."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .errors import AdapterError


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files to a new folder that appears complete or not at all, also after a crash.

    Raises:
        AdapterError: Something is there already, or it cannot be written.
    """
    if folder.exists():
        raise AdapterError(f"{folder}: something is there already; nothing was written")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder.parent))
        try:
            draft.chmod(0o755)
            for name, content in files.items():
                with (draft / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            _sync(draft)
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        _sync(folder.parent)
    except OSError as error:
        raise AdapterError(f"{folder}: cannot be written ({error.strerror})") from None


def write_file(path: Path, content: bytes) -> None:
    """Writes a file that appears complete or not at all, in place of what was there.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
