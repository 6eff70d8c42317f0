"""How loops are compiled, and the tensors that they accept.

numba compiles each loop once for a machine, which takes seconds, and caches the result in the
folder of `kernel_cache.py`. Loops run without the interpreter's lock.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .kernel_cache import cache_folder, kernel_cache, report_incomplete

Addresses = NDArray[np.int64]
Counts = NDArray[np.int64]
Factors = NDArray[np.float32]

OPTIONS = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
"""Options of all kernels: sums may be computed in any order, but NaN stays NaN."""

helper: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(**OPTIONS)
"""Decorator of a function that compiled loops call."""


def compiled(signature: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that compiles a loop when its module is imported, or loads it from the cache."""

    def decorate(loop: Callable[..., None]) -> Callable[..., None]:
        with kernel_cache() as is_cached:
            try:
                function: Callable[..., None] = numba.njit(signature, cache=is_cached, **OPTIONS)(
                    loop
                )
            except (RuntimeError, OSError) as error:
                if isinstance(error, OSError):  # the cache cannot be written, and lacks this loop
                    report_incomplete()
                # Otherwise numba has no cache, such as for a source in a zip file.
                function = numba.njit(signature, **OPTIONS)(loop)
        return function

    return decorate


def compile_loops() -> Path | None:
    """Compiles all loops for this processor, or loads them from their cache.

    Returns:
        The folder of the cache; None, with a warning, if there is no safe one.
    """
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")
    return cache_folder()


def as_float32_rows(x: Tensor) -> Tensor:
    """`[t, d]` in float32 with contiguous rows; no copy as a rule."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()
