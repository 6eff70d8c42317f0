"""Tensors as arguments of compiled loops."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..bucketing import WIDTH
from .compiling import Factors, as_float32_rows


def as_rows(x: Tensor) -> tuple[Tensor, bool]:
    """Tokens in a form that loops read, without a copy as a rule, and whether it is bfloat16."""
    if x.dtype == torch.bfloat16 and x.stride(-1) == 1 and x.shape[1] % WIDTH == 0:
        return x, True
    return as_float32_rows(x), False


def row_arguments(x: Tensor) -> tuple[int, int, int]:
    """Address of the first row, bytes from a row to the next, and length of a row."""
    return x.data_ptr(), x.stride(0) * x.element_size(), x.shape[1]


@cache
def ones(n: int) -> Factors:
    """Factors 1 of n segments."""
    return np.ones(n, np.float32)
