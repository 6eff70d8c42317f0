"""The memory that a process can still use, by all limits that apply to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of containers and services."""


def available_memory(device: torch.device) -> int | None:
    """Bytes that tensors on a device can still take; None if the system does not tell.

    On a CPU it is the least of what the machine has left, what the control groups (containers) of
    this process allow, and what its limit of address space (`ulimit -v`) allows. On a GPU it is
    the free memory with what torch has reserved and does not use.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    found = [*_of_machine(), *_of_control_groups(), *_of_address_space()]
    return min(found, default=None)


def _of_machine() -> Iterator[int]:
    """What can be used without swapping, by `/proc/meminfo`."""
    kilobytes = _fields(Path("/proc/meminfo")).get("MemAvailable:")
    if kilobytes is not None:
        yield 1024 * kilobytes


def _of_control_groups() -> Iterator[int]:
    """What the group of this process, and each group around it, has left (version 2 and 1)."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = GROUPS / "memory" if controllers else GROUPS
        limit, usage = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        inner = root / path.lstrip("/")
        # In a container the path may be that of the host, and the root the container's own group.
        groups = [group for group in (inner, *inner.parents) if root in group.parents]
        for folder in (root, *groups):
            most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
            if most.isdecimal() and used.isdecimal():
                cached = _fields(folder / "memory.stat").get("inactive_file", 0)
                yield max(0, int(most) - int(used) + cached)


def _of_address_space() -> Iterator[int]:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(Path("/proc/self/statm")).split()
    if most != resource.RLIM_INFINITY and pages:
        yield max(0, most - int(pages[0]) * os.sysconf("SC_PAGE_SIZE"))


def _fields(file: Path) -> dict[str, int]:
    """Name to number of a file with one of both a line; empty if it cannot be read."""
    parts = (line.split() for line in _text(file).splitlines())
    return {part[0]: int(part[1]) for part in parts if len(part) > 1 and part[1].isdecimal()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
