"""Layers whose activations are not kept for the backward pass but computed again (Chen et al. 2016,
arXiv:1604.06174, "gradient checkpointing").

Written with torch's hooks for saved tensors. `torch.utils.checkpoint` does the same, but it knows
the global random generators only, and its first call imports a compiler, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Compute = Callable[[Tensor], Tensor]
"""A layer with its edits: states to states, `[1, T, h]`."""


@dataclass(frozen=True)
class Recomputation:
    """Computes layers of a training batch, of which only the input is kept.

    Gradients are the same to the last bit: a layer draws the same random numbers again.

    Attributes:
        generators: The generators that the layers draw from.
    """

    generators: Sequence[torch.Generator] = ()

    def run(self, layer: Compute, states: Tensor) -> Tensor:
        """The states that leave a layer, `[1, T, h]`."""
        kept = _Kept(layer, states, self.generators)
        with saved_tensors_hooks(kept.pack, kept.unpack):
            return layer(states)


class _Kept:
    """What is kept of one layer's forward: its input, and the state of everything it depends on."""

    def __init__(
        self, layer: Compute, states: Tensor, generators: Sequence[torch.Generator]
    ) -> None:
        self._layer = layer
        self._states = states.detach().requires_grad_(states.requires_grad)
        self._generators = [(generator, generator.get_state()) for generator in generators]
        kind = states.device.type
        self._autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        self._n_packed = 0
        self._again: list[Tensor] = []

    def pack(self, tensor: Tensor) -> int:
        """Forgets a tensor that the backward pass needs, but for its number."""
        self._n_packed += 1
        return self._n_packed - 1

    def unpack(self, number: int) -> Tensor:
        """The tensor of that number; for the first one, the layer is computed again."""
        if not self._again:
            self._compute_again()
        return self._again[number]

    def _compute_again(self) -> None:
        now = [generator.get_state() for generator, _ in self._generators]
        for generator, state in self._generators:
            generator.set_state(state)
        kind, dtype, enabled = self._autocast
        try:
            with (
                torch.enable_grad(),
                torch.autocast(kind, dtype, enabled),
                saved_tensors_hooks(self._collect, _never),
            ):
                self._layer(self._states)
        finally:
            for (generator, _), state in zip(self._generators, now, strict=True):
                generator.set_state(state)
        if len(self._again) != self._n_packed:
            raise RuntimeError(
                f"a layer kept {len(self._again)} tensors where it had kept {self._n_packed}: a "
                "method's edit does something only the first time it is called; it must do that "
                "when it is built, or training.gradient_checkpointing must be false"
            )

    def _collect(self, tensor: Tensor) -> None:
        self._again.append(tensor.detach())


def _never(packed: None) -> Tensor:
    raise RuntimeError("the graph of a layer that was computed again has no backward pass")
