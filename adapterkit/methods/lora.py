"""LoRA: a trained product of two thin matrices beside frozen linears (Hu et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.families import LINEAR_SITES, Geometry
from ..ops.low_rank import LowRank, StackedWeights
from ..schema import check_least, check_share
from .base import (
    Contribution,
    FileKeys,
    Method,
    Share,
    Tensors,
    check_layers,
    chosen_layers,
    layers_and_sites,
)

UNSUPPORTED = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "use_qalora": False,
    "use_bdlora": None,
}
"""PEFT settings that change the maths, with the only value understood here."""


@dataclass(frozen=True)
class LoRA(Method):
    """`y = W x + scale * B (A x)` at the chosen linears.

    Attributes:
        r: Rank of the product.
        alpha: `scale` is alpha / r.
        dropout: Share of the linear's input that the low-rank path does not see in training.
        targets: Linears to act on: query, key, value, attention_output, ffn_up, ffn_down.
        rank_stabilised: `scale` is alpha / sqrt(r) instead (Kalajdzievski 2023).
        layers: Layers to act on, counted from 0; all where left out.
    """

    type: ClassVar[str] = "lora"
    peft_type: ClassVar[str] = "LORA"
    learning_rate: ClassVar[float] = 2e-3
    in_one_launch: ClassVar[bool] = True
    head_prefix: ClassVar[str] = "base_model.model."

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")
    rank_stabilised: bool = False
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_least(self, 1, "r")
        check_share(self, "dropout")
        unknown = [site for site in self.targets if site not in LINEAR_SITES]
        if unknown or not self.targets or len(set(self.targets)) != len(self.targets):
            valid = ", ".join(LINEAR_SITES)
            raise ValueError(f"targets: expected distinct of {valid}; got {list(self.targets)}")
        check_layers(self.layers)

    @property
    def scale(self) -> float:
        """Factor on the product."""
        return self.alpha / (math.sqrt(self.r) if self.rank_stabilised else self.r)

    @property
    def group(self) -> Hashable:
        return (tuple(sorted(self.targets)), self.layers, self.dropout)

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        n_layers = len(chosen_layers(self.layers, geometry))
        if self.r > geometry.hidden:
            raise ValueError(f"r: {self.r} is more than the backbone's width, {geometry.hidden}")
        shapes: dict[str, tuple[int, ...]] = {}
        for site in self.targets:
            shapes[f"{site}.a"] = (n_layers, self.r, geometry.width_in(site))
            shapes[f"{site}.b"] = (n_layers, geometry.width_out(site), self.r)
        return shapes

    def fresh(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """PEFT's initialisation: A is Kaiming uniform with a = sqrt(5), B is zero."""
        tensors = {}
        for name, shape in self.shapes(geometry).items():
            tensors[name] = torch.zeros(shape)
            if name.endswith(".a"):
                bound = 1.0 / math.sqrt(shape[-1])
                tensors[name].uniform_(-bound, bound, generator=generator)
        return tensors

    @classmethod
    def contribute(cls, members: Sequence[tuple[Self, Tensors]], share: Share) -> Contribution:
        first = members[0][0]
        deltas: dict[tuple[int, str], Delta] = {}
        for site in first.targets:
            product = LowRank(
                runs=share.runs,
                down=StackedWeights([tensors[f"{site}.a"] for _, tensors in members], dim=-2),
                up=StackedWeights([tensors[f"{site}.b"] for _, tensors in members], dim=-1),
                scales=tuple(method.scale for method, _ in members),
            )
            for at, layer in enumerate(chosen_layers(first.layers, share.geometry)):
                deltas[layer, site] = partial(_delta, product, share, first.dropout, at)
        return Contribution(deltas)

    def config(self, geometry: Geometry) -> dict[str, Any]:
        paths = [geometry.family.linears[site] for site in self.targets]
        # PEFT matches by suffix, and `output.dense` is also the end of `attention.output.dense`.
        only_last = "ffn_down" in self.targets and "attention_output" not in self.targets
        return {
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilised,
            "target_modules": [path.removeprefix("attention.self.") for path in paths],
            "exclude_modules": ["attention.output.dense"] if only_last else None,
            "layers_to_transform": list(self.layers) if self.layers is not None else None,
            "layers_pattern": "layer" if self.layers is not None else None,
            "init_lora_weights": True,
            "bias": "none",
            "fan_in_fan_out": False,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], keys: Iterable[str], geometry: Geometry
    ) -> Self:
        for setting, only in UNSUPPORTED.items():
            if config.get(setting, only) not in (only, None):
                raise ValueError(f"{setting} = {config[setting]!r} is not supported")
        layers, targets = layers_and_sites(keys, geometry)
        return cls(
            r=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            dropout=float(config.get("lora_dropout", 0.0)),
            targets=targets,
            rank_stabilised=bool(config.get("use_rslora", False)),
            layers=None if layers == tuple(range(geometry.layers)) else layers,
        )

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        return {
            f"base_model.model.{root}{geometry.path(layer, site)}.{file}.weight": (
                f"{site}.{name}",
                at,
            )
            for at, layer in enumerate(chosen_layers(self.layers, geometry))
            for site in self.targets
            for file, name in (("lora_A", "a"), ("lora_B", "b"))
        }


def _delta(product: LowRank, share: Share, dropout: float, at: int, y: Tensor, x: Tensor) -> Tensor:
    return product.add(y, share.dropped(x, dropout), at)
