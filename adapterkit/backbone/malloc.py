"""Memory that tensors free stays with the process, so that later tensors can use it."""

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


def keep_freed_memory() -> None:
    """Asks glibc not to return freed memory to the operating system after every layer.

    A batch allocates and frees the same few megabytes over and over. By default glibc returns them,
    and the system then maps them again page by page, each filled with zeros: thousands of page
    faults a batch, a twentieth of its time. Other C libraries stay as they are, and so does glibc
    if the environment configures it (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    configured = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if sys.platform != "linux" or configured:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, MAX_BLOCK_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, MAX_FREE_BYTES)
