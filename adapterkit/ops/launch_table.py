"""What the kernels of one batch read on a GPU besides tokens and weights: one buffer, one copy.

Where a run of tokens begins, whose it is and where that adapter's weights lie are a few numbers for
each kernel. Sent one by one they would cost more than the kernels; on a sheet they go together, and
a CUDA graph that reads a sheet can be run again with another batch's numbers on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNED = 16
"""Bytes that every entry begins at a multiple of."""


@dataclass(frozen=True)
class Slot:
    """Where numbers stand on a sheet.

    Attributes:
        start: First byte.
        n: Numbers there is room for.
        dtype: Their dtype.
    """

    start: int
    n: int
    dtype: torch.dtype


class LaunchTable:
    """Numbers that are gathered on the CPU and then sent to a device in one copy."""

    def __init__(self) -> None:
        self._kind: list[Slot | int] = []
        self._numbers: list[tuple[Slot, NDArray[np.generic]]] = []
        self._size = 0
        self._sent: Tensor | None = None

    def add(self, numbers: NDArray[np.generic], room: int | None = None) -> Slot:
        """Takes numbers `[n]`, with room for as many as given; zeros fill it up."""
        n = len(numbers) if room is None else room
        entry = Slot(self._size, n, torch.from_numpy(numbers[:0]).dtype)
        self._kind.append(entry)
        self._numbers.append((entry, numbers))
        self._size += -(-n * numbers.itemsize // ALIGNED) * ALIGNED
        return entry

    def add_constant(self, constant: int) -> int:
        """Takes note of a number that a kernel is launched with, and does not read."""
        self._kind.append(constant)
        return constant

    @property
    def kind(self) -> tuple[Slot | int, ...]:
        """What sheets have in common that differ in no more than the numbers on them."""
        return tuple(self._kind)

    @property
    def written(self) -> Tensor:
        """All numbers as bytes, on the CPU."""
        sheet = np.zeros(self._size, np.uint8)
        for entry, numbers in self._numbers:
            sheet[entry.start : entry.start + numbers.nbytes] = numbers.view(np.uint8)
        return torch.from_numpy(sheet)

    def upload(self, device: torch.device | str) -> Tensor:
        """Sends all numbers to a device, once, from where they are read from now on.

        Returns:
            The sheet there, in bytes.
        """
        if self._sent is None:
            self._sent = self.written.to(device, non_blocking=True)
        return self._sent

    def view(self, entry: Slot) -> Tensor:
        """An entry's numbers on the device, `[n]`."""
        if self._sent is None:
            raise RuntimeError("the sheet was not sent yet")
        end = entry.start + entry.n * entry.dtype.itemsize
        return self._sent[entry.start : end].view(entry.dtype)
