"""Memory that tensors free stays with the process, so that later tensors can use it, unless memory
is short."""

from __future__ import annotations

import ctypes
import os
import sys

# Option numbers of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

MAX_BLOCK_BYTES = 1 << 25
"""Size of the largest freed block that is kept; glibc allows no larger value."""

MAX_FREE_BYTES = 1 << 28
"""Free bytes that may stay at the end of the heap."""


DEFAULT_BYTES = 1 << 17
"""Both sizes as glibc has them: a block that is larger is returned when it is freed."""


def keep_freed_memory() -> None:
    """Asks glibc not to return freed memory to the operating system after every layer.

    A batch allocates and frees the same few megabytes over and over. By default glibc returns them,
    and the system then maps them again page by page, each filled with zeros: thousands of page
    faults a batch, a twentieth of its time. Other C libraries stay as they are, and so does glibc
    if the environment configures it (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, MAX_BLOCK_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, MAX_FREE_BYTES)


def return_freed_memory() -> None:
    """Asks glibc to return freed memory, what it has kept and from now on.

    Kept memory lies in pieces between what lives on, and counts as used by the limits of a process
    (`ulimit -v`): who has met one and frees half of what it needed may have nothing more for the
    rest. Other C libraries, and a configured glibc, stay as they are.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, DEFAULT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_BYTES)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is a glibc that the environment does not configure."""
    configured = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    libc = ctypes.CDLL(None) if sys.platform == "linux" and not configured else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
