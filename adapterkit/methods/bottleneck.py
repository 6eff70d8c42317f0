"""Bottleneck adapters: a thin two-layer network with a skip connection (Houlsby et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.families import Geometry
from ..ops.low_rank import LowRank, StackedWeights
from ..schema import check_least
from .base import Contribution, Method, Share, Tensors, check_layers, chosen_layers

PLACEMENTS = {
    "houlsby": ("after_attention", "after_ffn"),
    "pfeiffer": ("ffn_norm",),
    "parallel": ("ffn_residual",),
}
"""Where each placement acts (see `families.HIDDEN_SITES`)."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
}


@dataclass(frozen=True)
class Bottleneck(Method):
    """`y + scaling * U f(D x + d) + u` in the residual stream, the identity at the start.

    Attributes:
        placement: `pfeiffer` acts once a layer, on the normed sum after the feed-forward block
            (Pfeiffer et al. 2020); `houlsby` twice, after attention output and after feed-forward;
            `parallel` beside the feed-forward block (He et al. 2021).
        size: Width of the bottleneck; hidden width / reduction_factor where left out.
        reduction_factor: Hidden width over bottleneck width.
        activation: relu, gelu, silu (also called swish), tanh or leaky_relu.
        scaling: Factor on what is added.
        layers: Layers to act on, counted from 0; all where left out.
    """

    type: ClassVar[str] = "bottleneck"
    peft_type: ClassVar[str] = "BOTTLENECK"
    learning_rate: ClassVar[float] = 2e-3
    in_one_launch: ClassVar[bool] = True

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
        if self.reduction_factor <= 0:
            raise ValueError(f"reduction_factor: expected more than 0, got {self.reduction_factor}")
        check_layers(self.layers)

    @property
    def group(self) -> Hashable:
        return (self.placement, self.activation, self.layers)

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        n_layers, hidden = len(chosen_layers(self.layers, geometry)), geometry.hidden
        wanted = self.size or hidden / self.reduction_factor
        if wanted > geometry.intermediate:
            raise ValueError(
                f"size: {wanted:.6g} is more than the backbone's widest layer, "
                f"{geometry.intermediate}; give a smaller size or a larger reduction_factor"
            )
        size = max(1, round(wanted))
        shapes: dict[str, tuple[int, ...]] = {}
        for site in PLACEMENTS[self.placement]:
            shapes[f"{site}.down"] = (n_layers, size, hidden)
            shapes[f"{site}.down_bias"] = (n_layers, size)
            shapes[f"{site}.up"] = (n_layers, hidden, size)
            shapes[f"{site}.up_bias"] = (n_layers, hidden)
        return shapes

    def fresh(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """Down is normal with BERT's standard deviation 0.02, all else zero: the identity."""
        tensors = {name: torch.zeros(shape) for name, shape in self.shapes(geometry).items()}
        for name, tensor in tensors.items():
            if name.endswith(".down"):
                tensor.normal_(std=0.02, generator=generator)
        return tensors

    @classmethod
    def contribute(cls, members: Sequence[tuple[Self, Tensors]], share: Share) -> Contribution:
        first = members[0][0]
        deltas: dict[tuple[int, str], Delta] = {}
        for site in PLACEMENTS[first.placement]:

            def bank(part: str, dim: int, site: str = site) -> StackedWeights:
                return StackedWeights([tensors[f"{site}.{part}"] for _, tensors in members], dim)

            product = LowRank(
                runs=share.runs,
                down=bank("down", -2),
                up=bank("up", -1),
                scales=tuple(method.scaling for method, _ in members),
                down_bias=bank("down_bias", -1),
                up_bias=bank("up_bias", -1),
                activation=ACTIVATIONS[first.activation],
            )
            for at, layer in enumerate(chosen_layers(first.layers, share.geometry)):
                deltas[layer, site] = partial(product.add, at=at)
        return Contribution(deltas)

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return {
            "placement": self.placement,
            "size": self.size,
            "reduction_factor": self.reduction_factor,
            "activation": self.activation,
            "scaling": self.scaling,
            "layers": list(self.layers) if self.layers is not None else None,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], keys: Iterable[str], geometry: Geometry
    ) -> Self:
        settings = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        if settings.get("layers") is not None:
            settings["layers"] = tuple(settings["layers"])
        return cls(**settings)
