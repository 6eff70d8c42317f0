"""Bottleneck adapters: a narrow two-layer network with a skip connection (Houlsby et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.geometry import Geometry
from ..ops.low_rank import LowRank
from ..ops.stacked_weights import StackedWeights
from ..schema import check_factor, check_least
from .base import Method, Tensors
from .group import Group, GroupEdits
from .places import all_layers, check_layers, chosen_layers, layers_setting

PLACEMENTS = {
    "houlsby": ("after_attention", "after_ffn"),
    "pfeiffer": ("ffn_norm",),
    "parallel": ("ffn_residual",),
}
"""Placement to the sites it edits (see `HIDDEN_SITES`)."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
}


@dataclass(frozen=True)
class Bottleneck(Method):
    """`y + scaling * (U f(D x + d) + u)` in the residual stream; a new adapter is the identity.

    Attributes:
        placement: `pfeiffer` edits once a layer, the normed sum after the feed-forward block
            (Pfeiffer et al. 2020); `houlsby` twice, after the attention block and after the
            feed-forward block; `parallel` in parallel to the feed-forward block (He et al. 2021).
        size: Width of the bottleneck; hidden width / reduction_factor if omitted.
        reduction_factor: Hidden width divided by bottleneck width.
        activation: relu, gelu, gelu_new (its approximation by tanh), silu (also called swish), tanh
            or leaky_relu.
        scaling: Factor on what is added.
        layers: Layers to edit, counted from 0; all if omitted.
    """

    type: ClassVar[str] = "bottleneck"
    peft_type: ClassVar[str] = "BOTTLENECK"
    learning_rate: ClassVar[float] = 2e-3
    low_rank_only: ClassVar[bool] = True
    table_order: ClassVar[int] = 30
    free_settings: ClassVar[tuple[str, ...]] = ("size", "reduction_factor")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"size": 4},
        {"placement": "houlsby", "activation": "swish", "reduction_factor": 8.0},
        {"placement": "parallel", "scaling": 4.0, "activation": "gelu"},
        {"layers": (0, 2), "activation": "tanh"},
    )

    placement: Literal["pfeiffer", "houlsby", "parallel"] = "pfeiffer"
    size: int | None = None
    reduction_factor: float = 16.0
    activation: str = "relu"
    scaling: float = 1.0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise ValueError(
                f"placement: expected one of {', '.join(PLACEMENTS)}, got '{self.placement}'"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {', '.join(ACTIVATIONS)}, got '{self.activation}'"
            )
        check_least(self, 1, "size")
        check_factor(self, "scaling")
        if self.reduction_factor <= 0:
            raise ValueError(f"reduction_factor: expected more than 0, got {self.reduction_factor}")
        check_layers(self.layers)

    @property
    def sites(self) -> tuple[str, ...]:
        return PLACEMENTS[self.placement]

    @property
    def group_key(self) -> Hashable:
        return (self.placement, self.activation, self.layers)

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        n_layers, hidden = len(chosen_layers(self.layers, geometry)), geometry.hidden
        width = self.size or hidden / self.reduction_factor
        if width > geometry.intermediate:
            raise ValueError(
                f"size: {width:.6g} is more than the backbone's widest layer, "
                f"{geometry.intermediate}; give a smaller size or a larger reduction_factor"
            )
        size = max(1, round(width))
        shapes: dict[str, tuple[int, ...]] = {}
        for site in self.sites:
            shapes[f"{site}.down"] = (n_layers, size, hidden)
            shapes[f"{site}.down_bias"] = (n_layers, size)
            shapes[f"{site}.up"] = (n_layers, hidden, size)
            shapes[f"{site}.up_bias"] = (n_layers, hidden)
        return shapes

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """Down is normal with BERT's standard deviation, 0.02; all else is zero."""
        tensors = {name: torch.zeros(shape) for name, shape in self.shapes(geometry).items()}
        for name, tensor in tensors.items():
            if name.endswith(".down"):
                tensor.normal_(std=0.02, generator=generator)
        return tensors

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first = members[0][0]
        deltas: dict[tuple[int, str], Delta] = {}
        for site in first.sites:

            def stacked(part: str, dim: int, site: str = site) -> StackedWeights:
                return StackedWeights([tensors[f"{site}.{part}"] for _, tensors in members], dim)

            product = LowRank(
                segments=group.segments,
                down=stacked("down", -2),
                up=stacked("up", -1),
                scales=tuple(method.scaling for method, _ in members),
                down_bias=stacked("down_bias", -1),
                up_bias=stacked("up_bias", -1),
                activation=ACTIVATIONS[first.activation],
            )
            for index, layer in enumerate(chosen_layers(first.layers, group.geometry)):
                deltas[layer, site] = partial(product.add, layer=index)
        return GroupEdits(deltas)

    @classmethod
    def weighted_sum(
        cls, members: Sequence[tuple[Self, Tensors]], weights: Sequence[float], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        """As in `Method`: the bottlenecks stand beside each other; weights and scalings are in what
        leads out of them."""
        first = members[0][0]
        for method, _ in members:
            for key in ("placement", "activation"):
                if getattr(method, key) != getattr(first, key):
                    raise ValueError(
                        f"they differ in {key}: {getattr(first, key)}, {getattr(method, key)}"
                    )
        sizes = [own[f"{first.sites[0]}.down"].shape[1] for _, own in members]
        layers = all_layers((method.layers for method, _ in members), geometry)
        total = cls(
            placement=first.placement,
            size=sum(sizes),
            activation=first.activation,
            layers=layers_setting(layers, geometry),
        )
        tensors = {name: torch.zeros(shape) for name, shape in total.shapes(geometry).items()}
        start = 0
        for (method, own), weight, size in zip(members, weights, sizes, strict=True):
            rows = [layers.index(layer) for layer in chosen_layers(method.layers, geometry)]
            inner, factor = slice(start, start + size), weight * method.scaling
            for site in first.sites:
                tensors[f"{site}.down"][rows, inner] = own[f"{site}.down"]
                tensors[f"{site}.down_bias"][rows, inner] = own[f"{site}.down_bias"]
                tensors[f"{site}.up"][rows, :, inner] = own[f"{site}.up"] * factor
                tensors[f"{site}.up_bias"][rows] += own[f"{site}.up_bias"] * factor
            start += size
        return total, tensors
