"""Memory that tensors give back stays with the process, so that the next ones find it there."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's own numbers, malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

LARGEST = 1 << 25
"""Bytes of the largest tensor that is kept; the most that glibc lets one choose."""

KEPT = 1 << 28
"""Bytes at the end of the heap that may lie idle."""


def keep_freed_memory() -> None:
    """Asks the C library not to give every layer's memory back to the system.

    A batch allocates and frees the same few megabytes over and over. glibc returns them whenever
    enough lie idle, and the system hands them out again a page at a time, each wiped: thousands of
    faults a batch, a twentieth of its time. Other C libraries are left as they are, and so is glibc
    where the environment tells it what to do (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform != "linux" or chosen:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
