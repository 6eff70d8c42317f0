"""(IA)^3: the outputs of linears times trained vectors (Liu et al. 2022).

Of the paper's three places this has keys and values. The third, inside the feed-forward block, is
no site of adapterkit.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from adapterkit import Geometry, Method
from adapterkit.backbone.edits import Delta
from adapterkit.methods.base import FileKeys, Group, GroupEdits, Tensors

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

    @property
    def group_key(self) -> Hashable:
        return tuple(sorted(self.targets))

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        # The last dimension is that of PEFT's files.
        return {site: (geometry.layers, geometry.width_out(site), 1) for site in self.targets}

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        return {site: torch.ones(shape) for site, shape in self.shapes(geometry).items()}

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        lengths = torch.tensor(group.segments.lengths, device=group.segments.device)
        deltas: dict[tuple[int, str], Delta] = {}
        for site in members[0][0].targets:
            vectors = torch.stack([tensors[site].squeeze(-1) for _, tensors in members], dim=1)
            for layer in range(group.geometry.layers):
                deltas[layer, site] = partial(_scale, vectors[layer], lengths)
        return GroupEdits(deltas)

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

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        return {
            f"base_model.model.{root}{geometry.peft_path(layer, site)}.ia3_l": (site, layer)
            for layer in range(geometry.layers)
            for site in self.targets
        }


def _scale(vectors: Tensor, lengths: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Scales the tokens of each adapter.

    Args:
        vectors: One for each adapter, `[G, out]`.
        lengths: Tokens of each adapter, `[G]`.
        y: The linear's output for all these tokens, `[t, out]`; changed in place if gradients are
            off.
        x: The linear's input, not needed.
    """
    factors = vectors.repeat_interleave(lengths, dim=0, output_size=len(y)).to(y.dtype)
    return y * factors if torch.is_grad_enabled() else y.mul_(factors)
