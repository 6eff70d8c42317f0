"""Representation editing: the output of a block, scaled and shifted (Wu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from adapterkit import Geometry, Group, GroupEdits, Method

SITES = ("after_attention", "after_ffn")


@dataclass(frozen=True)
class RepresentationEditing(Method):
    """`l * y + b` in the residual stream, with one number of `l` and of `b` for each feature.

    Attributes:
        targets: Blocks whose output is edited: after_attention, after_ffn.
    """

    type: ClassVar[str] = "red"
    peft_type: ClassVar[str] = "RED"
    learning_rate: ClassVar[float] = 1e-2
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"targets": SITES})

    targets: tuple[str, ...] = ("after_ffn",)

    def __post_init__(self) -> None:
        if not self.targets or not set(self.targets) <= set(SITES):
            raise ValueError(f"targets: expected some of {', '.join(SITES)}; got {self.targets}")

    @property
    def sites(self) -> tuple[str, ...]:
        return self.targets

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        shape = (geometry.layers, geometry.hidden)
        return {f"{site}.{part}": shape for site in self.targets for part in ("scale", "shift")}

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> dict[str, Tensor]:
        """Scales of one and shifts of zero: a new adapter changes nothing."""
        return {
            name: torch.ones(shape) if name.endswith(".scale") else torch.zeros(shape)
            for name, shape in self.shapes(geometry).items()
        }

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, dict[str, Tensor]]], group: Group) -> GroupEdits:
        deltas = {}
        for site in members[0][0].targets:
            scale, shift = (
                torch.stack([tensors[f"{site}.{part}"] for _, tensors in members], dim=1)
                for part in ("scale", "shift")
            )
            for layer in range(group.geometry.layers):
                deltas[layer, site] = partial(_edit, group, scale[layer], shift[layer])
        return GroupEdits(deltas)


def _edit(group: Group, scale: Tensor, shift: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Scales and shifts the tokens of each adapter.

    Args:
        group: The adapters' tokens.
        scale, shift: Of each adapter, `[G, h]`.
        y: The output of the block for all these tokens, `[t, h]`.
        x: What an edit here reads, which is y.
    """
    return y * group.per_token(scale).to(y.dtype) + group.per_token(shift).to(y.dtype)
