"""The numbers that the kernels of one batch read on a GPU besides tokens and weights.

Each kernel needs a few numbers: where a segment of tokens begins, whose it is, where that adapter's
weights lie. Copied one by one they would cost more time than the kernels. In a table they are one
buffer and one copy, and a CUDA graph that reads the table can be replayed with another batch's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT = 16
"""Every slot begins at a multiple of so many bytes."""


@dataclass(frozen=True)
class Slot:
    """A place in a table.

    Attributes:
        start: First byte.
        n: Number of elements that fit.
        dtype: Dtype of the elements.
    """

    start: int
    n: int
    dtype: torch.dtype


class LaunchTable:
    """Numbers that are gathered on the CPU and then copied to a device at once."""

    def __init__(self) -> None:
        self._layout: list[Slot | int] = []
        self._values: list[tuple[Slot, NDArray[np.generic]]] = []
        self._size = 0
        self._on_device: Tensor | None = None

    def add(self, values: NDArray[np.generic], capacity: int | None = None) -> Slot:
        """Adds an array.

        Args:
            values: `[n]`.
            capacity: Number of elements to reserve, n if omitted; zeros fill the rest.
        """
        n = len(values) if capacity is None else capacity
        slot = Slot(self._size, n, torch.from_numpy(values[:0]).dtype)
        self._layout.append(slot)
        self._values.append((slot, values))
        self._size += -(-n * values.itemsize // ALIGNMENT) * ALIGNMENT
        return slot

    def add_constant(self, constant: int) -> int:
        """Adds an argument of a launch, which is part of the layout and not of the buffer."""
        self._layout.append(constant)
        return constant

    @property
    def layout(self) -> tuple[Slot | int, ...]:
        """Slots and constants: tables of one layout differ in nothing but the values."""
        return tuple(self._layout)

    @property
    def buffer(self) -> Tensor:
        """All values as bytes, on the CPU."""
        content = np.zeros(self._size, np.uint8)
        for slot, values in self._values:
            content[slot.start : slot.start + values.nbytes] = values.view(np.uint8)
        return torch.from_numpy(content)

    def upload(self, device: torch.device | str) -> Tensor:
        """Copies all values to a device, once; `view` reads them there from now on.

        Returns:
            The buffer on the device.
        """
        if self._on_device is None:
            self._on_device = self.buffer.to(device, non_blocking=True)
        return self._on_device

    def view(self, slot: Slot) -> Tensor:
        """The values of a slot on the device, `[n]`.

        Raises:
            RuntimeError: The table has not been uploaded yet.
        """
        if self._on_device is None:
            raise RuntimeError("the launch table has not been uploaded yet")
        end = slot.start + slot.n * slot.dtype.itemsize
        return self._on_device[slot.start : end].view(slot.dtype)
