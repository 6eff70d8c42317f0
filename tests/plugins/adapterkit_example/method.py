"""(IA)^3: the outputs of linears times trained vectors (Liu et al. 2022).

Of the paper's three places this has keys and values. The third, inside the feed-forward block, is
no site of adapterkit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from adapterkit import Geometry, Group, GroupEdits, Method

SITES = ("query", "key", "value")


@dataclass(frozen=True)
class IA3(Method):
    """`y = l * (W x + b)` at the chosen linears, with one number of `l` for each output.

    Attributes:
        targets: Linears to edit: query, key, value.
    """

    type: ClassVar[str] = "ia3"
    peft_type: ClassVar[str] = "IA3"
    learning_rate: ClassVar[float] = 1e-2
    head_prefix: ClassVar[str] = "base_model.model."
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"targets": SITES})

    targets: tuple[str, ...] = ("key", "value")

    def __post_init__(self) -> None:
        if not self.targets or not set(self.targets) <= set(SITES):
            raise ValueError(f"targets: expected some of {', '.join(SITES)}; got {self.targets}")

    @property
    def sites(self) -> tuple[str, ...]:
        return self.targets

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        # The last dimension is that of PEFT's files.
        return {site: (geometry.layers, geometry.width_out(site), 1) for site in self.targets}

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> dict[str, Tensor]:
        return {site: torch.ones(shape) for site, shape in self.shapes(geometry).items()}

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, dict[str, Tensor]]], group: Group) -> GroupEdits:
        deltas = {}
        for site in members[0][0].targets:
            vectors = torch.stack([tensors[site].squeeze(-1) for _, tensors in members], dim=1)
            for layer in range(group.geometry.layers):
                deltas[layer, site] = partial(_scale, group, vectors[layer])
        return GroupEdits(deltas)

    # What follows is PEFT's file format. Without it the settings would be saved as they are.

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return {
            "target_modules": [geometry.sites[site].peft_name(site) for site in self.targets],
            "feedforward_modules": [],
            "fan_in_fan_out": False,
            "init_ia3_weights": True,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], keys: Iterable[str], geometry: Geometry
    ) -> Self:
        if config.get("feedforward_modules"):
            raise ValueError("feedforward_modules: expected none; only key and value are scaled")
        names = tuple(keys)
        paths = {site: f"{geometry.peft_path(0, site)}.ia3_l" for site in SITES}
        return cls(tuple(s for s, path in paths.items() if any(n.endswith(path) for n in names)))

    def file_keys(self, geometry: Geometry, root: str) -> dict[str, tuple[str, int | None]]:
        return {
            f"base_model.model.{root}{geometry.peft_path(layer, site)}.ia3_l": (site, layer)
            for layer in range(geometry.layers)
            for site in self.targets
        }


def _scale(group: Group, vectors: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Scales the tokens of each adapter.

    Args:
        group: The adapters' tokens.
        vectors: One for each adapter, `[G, out]`.
        y: The linear's output for all these tokens, `[t, out]`.
        x: The linear's input, not needed.
    """
    return y * group.per_token(vectors).to(y.dtype)
