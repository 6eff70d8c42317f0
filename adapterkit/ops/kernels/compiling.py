"""How loops are compiled, and how tensors are told to them.

numba compiles each once for a machine, which takes seconds, and keeps the result beside the source
or in the user's cache. The interpreter's lock is let go while one runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Addresses = NDArray[np.int64]
Counts = NDArray[np.int64]
Factors = NDArray[np.float32]

OPTIONS = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
"""Of all kernels: sums may be taken in any order, but a number that is none stays one."""

helper: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(**OPTIONS)
"""Makes a function that compiled loops call."""


def compiled(signature: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compiles a loop when this module is imported, or finds it compiled."""

    def done(loop: Callable[..., None]) -> Callable[..., None]:
        try:
            made: Callable[..., None] = numba.njit(signature, cache=True, **OPTIONS)(loop)
        except RuntimeError:  # no place for it may be written to
            made = numba.njit(signature, **OPTIONS)(loop)
        return made

    return done


def plain(x: Tensor) -> Tensor:
    """`[t, d]` as the kernels read it, itself as a rule: in float32, line after line."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def lines(x: Tensor) -> tuple[int, int, int]:
    """Where the lines of `[t, d]` lie: the first one's address, numbers from one to the next, d."""
    return x.data_ptr(), x.stride(0), x.shape[1]
