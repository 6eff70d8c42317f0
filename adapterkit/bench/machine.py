"""Where something was measured, and how much memory a process has."""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

log = logging.getLogger("adapterkit")

PACKAGES = ("adapterkit", "torch", "transformers", "peft")


def machine() -> dict[str, Any]:
    """Processor, cores, threads and versions: what a figure means nothing without.

    Returns:
        `processor`, `instructions` (what torch and oneDNN use of it), `cores` (that this process
        may use), `threads` (of torch), `python`, and the version of each package, None if it is not
        installed; `gpu` if torch sees one.
    """
    import torch

    from ..ops.processor import processor

    found: dict[str, Any] = {
        "processor": _processor(),
        "instructions": str(processor()),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def installed(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def has_peft() -> bool:
    """Whether PEFT can be measured; where it cannot, a person is told."""
    if installed("peft") is None:
        log.warning("PEFT is not installed (pip install peft): nothing is compared with it")
        return False
    return True


def resident_bytes(process: int | None = None) -> int | None:
    """Memory a process has now, this one where none is named; None where the system does not
    tell."""
    return _status("VmRSS", process)


def peak_bytes() -> int:
    """Most memory this process has had at once."""
    # `ru_maxrss` begins at what the parent had when it started the process, so a small child of a
    # large parent would be told the parent's: Linux' own count is the child's alone.
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(key: str, process: int | None = None) -> int | None:
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def _cores() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
