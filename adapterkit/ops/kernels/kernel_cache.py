"""Where compiled loops are cached: a folder that nobody else can write, because it holds code."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numba

log = logging.getLogger("adapterkit")


@contextmanager
def kernel_cache() -> Iterator[bool]:
    """Lets numba cache loops that are compiled meanwhile in `cache_folder`.

    Yields:
        Whether there is such a folder.
    """
    folder, before = cache_folder(), numba.config.CACHE_DIR
    if folder is not None and folder != _beside_source():
        numba.config.CACHE_DIR = str(folder)
    try:
        yield folder is not None
    finally:
        numba.config.CACHE_DIR = before


@cache
def cache_folder() -> Path | None:
    """The folder of compiled loops; None, with a warning, if none is safe.

    The first of: `NUMBA_CACHE_DIR`, if it is set; the folder beside the source, as an installation
    may have filled it; `adapterkit` in the user's cache folder, which is made if it is missing.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    for folder in [Path(chosen)] if chosen else [_beside_source(), _of_user()]:
        fault = _fault(folder)
        if fault is None:
            return folder
        log.debug(f"{folder}: {fault}")
    log.warning(
        f"compiled loops are not cached ({folder}: {fault}), so every process compiles them anew, "
        "which takes about 10 seconds; set NUMBA_CACHE_DIR to a folder that only you can write"
    )
    return None


def _beside_source() -> Path:
    return Path(__file__).parent / "__pycache__"


def _of_user() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "adapterkit"


def _fault(folder: Path) -> str | None:
    """Why others could change what is in a folder, or we cannot write into it; None if neither."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (folder.resolve(), *folder.resolve().parents):
            if (fault := _writable_by_others(path)) is not None:
                return fault
    except (OSError, RuntimeError) as error:  # the latter: there is no home folder
        return f"cannot be made ({error})"
    return None if os.access(folder, os.W_OK) else "cannot be written"


def _writable_by_others(path: Path) -> str | None:
    """Why others can change the entries of a folder; None if they cannot, or on Windows, where
    access rights are lists."""
    if not hasattr(os, "geteuid"):
        return None
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user"
    # In a sticky folder, such as /tmp, nobody can replace the entries of others.
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        return f"{path} can be written by others"
    return None
