"""The machine that measures, and the memory of a process."""

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
    """Processor, cores, threads and versions: a figure means nothing without them.

    Returns:
        `processor`, `instructions` (those that torch and oneDNN use), `cores` (those that this
        process may use), `threads` (torch's), `python`, the version of each package (None if it
        is not installed), and `gpu` if torch sees one.
    """
    import torch

    from ..ops.processor import int8_max, processor

    found: dict[str, Any] = {
        "processor": _processor(),
        "instructions": f"{processor()}, int8 to {int8_max()}",
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def has_peft() -> bool:
    """Whether PEFT is installed; if not, a warning is logged."""
    if installed("peft") is None:
        log.warning("PEFT is not installed (pip install peft), so nothing is compared with it")
        return False
    return True


def has_cryptography() -> bool:
    """Whether signatures can be made; if not, a warning is logged."""
    if installed("cryptography") is None:
        log.warning("cryptography is not installed, so the cost of signatures is not measured")
        return False
    return True


def resident_bytes(process: int | None = None) -> int | None:
    """Resident memory of a process, of this one if omitted; None if the system does not tell."""
    return _proc_status("VmRSS", process)


def peak_bytes() -> int:
    """Peak resident memory of this process, in bytes."""
    # `ru_maxrss` starts at the parent's memory, so a small child of a large parent would report
    # the parent's. The count in /proc is the process's own.
    peak = _proc_status("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _proc_status(key: str, process: int | None = None) -> int | None:
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def _cores() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # some systems lack it
        return os.cpu_count()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
