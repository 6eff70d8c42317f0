"""The change of a frozen weight as a product of two matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Product(NamedTuple):
    """The change of a frozen weight, scale * up @ down.

    Attributes:
        down: `[r, in]`.
        up: `[out, r]`.
        scale: Factor on the product.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0

    @classmethod
    def of(cls, delta: Tensor) -> Product:
        """Any change of a weight, `[out, in]`: its smaller side is the inner one of the product."""
        n_out, n_in = delta.shape
        return cls(delta, torch.eye(n_out)) if n_out < n_in else cls(torch.eye(n_in), delta)

    @property
    def delta(self) -> Tensor:
        """The change, `[out, in]`."""
        return self.scale * self.up @ self.down

    def narrow(self) -> Product:
        """The same change, with no more inner dimensions than it needs."""
        most = min(len(self.up), self.down.shape[-1])
        return self if len(self.down) <= most else Product.of(self.delta)

    def columns(self, columns: tuple[int, int] | None) -> Product:
        """The change of some outputs alone.

        Args:
            columns: First and past-the-last output; None for all of them.
        """
        return self if columns is None else self._replace(up=self.up[slice(*columns)])
