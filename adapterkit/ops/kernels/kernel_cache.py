"""Where compiled loops are cached: a folder that nobody else can write, because it holds code.

A folder that we cannot write either, such as that of a container with a read-only root, is used if
an installation has filled it (`adapterkit compile`).
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self

import numba
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator

log = logging.getLogger("adapterkit")

SOURCE = Path(__file__).parent
"""The folder of the source of all loops."""


class _FilledBesideSource(InTreeCacheLocator):  # type: ignore[misc]  # numba has no types
    """The folder beside the source, which numba otherwise uses only if it can write there."""

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> Self:
        return cls(function, file)


class _FilledFolder(UserProvidedCacheLocator):  # type: ignore[misc]  # numba has no types
    """A chosen folder, likewise."""

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> Self:
        return cls(function, file)


@contextmanager
def kernel_cache() -> Iterator[bool]:
    """Lets numba cache loops that are compiled meanwhile in `cache_folder`.

    If the folder cannot be written and lacks a loop, numba raises an `OSError`.

    Yields:
        Whether there is such a folder.
    """
    folder, config = cache_folder(), numba.config
    before = config.CACHE_DIR, getattr(config, "CACHE_LOCATOR_CLASSES", "")
    if folder is not None:
        is_beside = folder == _beside_source()
        config.CACHE_DIR = "" if is_beside else str(folder)
        if not os.access(folder, os.W_OK):
            locator = _FilledBesideSource if is_beside else _FilledFolder
            config.CACHE_LOCATOR_CLASSES = f"{__name__}.{locator.__name__}"
    try:
        yield folder is not None
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = before


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


@cache
def report_incomplete() -> None:
    """Tells once that a folder that cannot be written lacks loops."""
    log.warning(
        f"the loops in {cache_folder()} were compiled for another processor or version, and the "
        "folder cannot be written, so every process compiles them anew, which takes about 20 "
        "seconds; run `adapterkit compile` where the folder can be written"
    )


def _beside_source() -> Path:
    return SOURCE / "__pycache__"


def _of_user() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "adapterkit"


def _fault(folder: Path) -> str | None:
    """Why others could change what is in a folder, or we cannot write into it; None if neither."""
    try:
        # Another user may run what an installation has compiled.
        mode = 0o755 if folder == _beside_source() else 0o700
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        for path in (folder.resolve(), *folder.resolve().parents):
            if (fault := _writable_by_others(path)) is not None:
                return fault
    except (OSError, RuntimeError) as error:  # the latter: there is no home folder
        return f"cannot be made ({error})"
    return None if os.access(folder, os.W_OK) or _is_filled(folder) else "cannot be written"


def _is_filled(folder: Path) -> bool:
    """Whether numba has cached a loop of ours in a folder."""
    inner = "" if folder == _beside_source() else f"{SOURCE.name}_*/"
    return any(folder.glob(f"{inner}*.nbi"))


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
