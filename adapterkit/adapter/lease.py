"""Leases: one writer at a time in stores that cannot write under a condition.

They need two things of a store: a listing has every file that was written before it, and removing a
file is seen by the next listing.
"""

from __future__ import annotations

import posixpath
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from ..errors import UnreachableStoreError

PREFIX = ".lease-"
"""How the names of the files of leases begin."""

EXPIRY = 60.0
"""Seconds after which the lease of a process that was killed is removed."""

PATIENCE = 600.0
"""Seconds that a writer waits for a lease."""


class Lease:
    """Mutual exclusion through files alone.

    A writer creates a file with a name of its own, and then lists the folder. If its file is the
    only one, it has the lease: whoever comes later finds that file. Two writers that come together
    find each other; each removes its file and tries again after a random time.

    Each writer measures with its own clock how long it has seen a file of another, so clocks need
    not agree.

    Args:
        files: An fsspec file system.
    """

    def __init__(self, files: Any) -> None:
        self._files = files

    @contextmanager
    def __call__(self, folder: str) -> Iterator[None]:
        """Holds the lease of a folder.

        Raises:
            UnreachableStoreError: Others had it for too long, or the work took so long that others
                may have taken it.
        """
        own = self._acquire(folder)
        began = time.monotonic()
        try:
            yield
        finally:
            with suppress(FileNotFoundError):  # another writer took it for a killed one's
                self._files.rm_file(own)
        if time.monotonic() - began > EXPIRY / 2:
            raise UnreachableStoreError(
                f"{folder}: the store took {time.monotonic() - began:.0f} seconds for a write, so "
                "another writer may have come between; look at it before you try again"
            )

    def _acquire(self, folder: str) -> str:
        seen: dict[str, float] = {}
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE:
            own = f"{folder}/{PREFIX}{uuid4().hex}"
            self._files.makedirs(folder, exist_ok=True)
            self._files.pipe_file(own, b"")
            others = self._others(folder, own)
            if not others:
                return own
            self._files.rm_file(own)
            now = time.monotonic()
            seen = {path: seen.get(path, now) for path in others}
            for path in [path for path, since in seen.items() if now - since > EXPIRY]:
                with suppress(FileNotFoundError):
                    self._files.rm_file(path)
            time.sleep(random.uniform(0.02, 0.3))
        raise UnreachableStoreError(f"{folder}: other writers hold it; try again later")

    def _others(self, folder: str, own: str) -> set[str]:
        self._files.invalidate_cache()
        names = {posixpath.basename(path) for path in self._files.ls(folder, detail=False)}
        leases = {name for name in names if name.startswith(PREFIX)}
        return {f"{folder}/{name}" for name in leases - {posixpath.basename(own)}}
