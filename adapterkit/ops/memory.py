"""Whether the compiled loops of a CPU can read a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def is_in_memory(x: Tensor) -> bool:
    """Whether a tensor has numbers in the memory of the CPU.

    It has none while torch records operators for another runtime, which knows no loops of ours.
    """
    return x.device.type == "cpu" and not torch.compiler.is_exporting()
