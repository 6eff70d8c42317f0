"""Numbers of each adapter that scale and shift what passes at a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .segments import Segments


@dataclass(frozen=True)
class ScaleAndShift:
    """`y + scale * x + shift` for the tokens of each segment, elementwise.

    Attributes:
        segments: Tokens of G adapters.
        scales: Scale of each adapter in all layers, `[L, d]`; None for a shift alone.
        shifts: Shift of each adapter in all layers, `[L, d]`; None for a scale alone.
    """

    segments: Segments
    scales: Sequence[Tensor] | None = None
    shifts: Sequence[Tensor] | None = None

    def add(self, y: Tensor, x: Tensor, layer: int) -> Tensor:
        """Adds the scaled x and the shift to y.

        Args:
            y: `[t, d]`.
            x: `[t, d]`; may be y itself.
            layer: Which of the L layers.

        Returns:
            `[t, d]`. If gradients are off on a CPU, it is y, changed in place.
        """
        on_cpu = y.device.type == "cpu" and self.segments.is_compiled
        if torch.is_grad_enabled() or not on_cpu:
            if self.scales is not None:
                y = torch.addcmul(y, x, self._per_token(self.scales, layer, y))
            return y if self.shifts is None else y + self._per_token(self.shifts, layer, y)
        starts = self.segments.starts.tolist()
        for g, rows in enumerate(map(slice, starts[:-1], starts[1:])):
            own = y[rows]
            if self.scales is not None:
                own.addcmul_(x[rows], self.scales[g][layer].to(y.dtype))
            if self.shifts is not None:
                own.add_(self.shifts[g][layer].to(y.dtype))
        return y

    def _per_token(self, vectors: Sequence[Tensor], layer: int, y: Tensor) -> Tensor:
        """The vector of each token in one layer, `[t, d]`, or `[d]` if there is one adapter."""
        own = [vector[layer] for vector in vectors]
        values = own[0] if len(own) == 1 else self.segments.per_token(torch.stack(own))
        return values.to(y.dtype)
