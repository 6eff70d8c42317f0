"""LoRA: the product of two trained low-rank matrices beside frozen linears (Hu et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import LINEAR_SITES, OPTIONAL_SITES, Geometry
from ..ops.low_rank import LowRank
from ..ops.stacked_weights import StackedWeights
from ..schema import check_factor, check_least, check_share
from .base import Method, PeftReading, Tensors
from .file_keys import FileKeys
from .group import Group, GroupEdits
from .initial_product import INITIAL_PRODUCTS
from .peft_folder import PeftFolder
from .peft_products import PRODUCT_KINDS, read_products
from .peft_settings import target_settings
from .places import all_layers, check_layers, check_sites, chosen_layers, layers_setting
from .product import Product

START_A, START_B = ".start_a", ".start_b"
"""Ends of the names of the first A, and of the first B times -1, of a training that starts from
parts of the frozen weights."""


@dataclass(frozen=True)
class LoRA(Method):
    """`y = W x + scale * B (A x)` at the chosen linears.

    Attributes:
        r: Rank of the product.
        alpha: `scale` is alpha / r.
        dropout: Probability, in training, that a number of the input becomes zero for the
            low-rank path.
        targets: Linears to edit: query, key, value, attention_output, ffn_up, ffn_down; qkv where
            one linear computes query, key and value, as PEFT edits it; and ffn_gate where the gate
            of the feed-forward block is a linear of its own.
        rank_stabilised: `scale` is alpha / sqrt(r) instead (Kalajdzievski 2023).
        layers: Layers to edit, counted from 0; all if omitted.
        init_lora_weights: What A and B start as: default (random and zero), pissa (the largest
            singular values of the frozen weight, Meng et al. 2024) or olora (a part of its QR
            decomposition, Büyükakyüz 2024). The last two need no dropout. The frozen weights stay
            as they are: the adapter subtracts the first product, so its rank is 2 r in the end.
    """

    type: ClassVar[str] = "lora"
    peft_type: ClassVar[str] = "LORA"
    reads_peft_types: ClassVar[tuple[str, ...]] = tuple(PRODUCT_KINDS)
    learning_rate: ClassVar[float] = 2e-3
    low_rank_only: ClassVar[bool] = True
    head_prefix: ClassVar[str] = "base_model.model."
    table_order: ClassVar[int] = 10
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"r": 3, "alpha": 5.0, "targets": LINEAR_SITES},
        {"r": 4, "rank_stabilised": True, "targets": ("key", "ffn_down")},
        {"layers": (0, 2), "targets": ("value", "ffn_up")},
        {"dropout": 0.1},
        {"r": 4, "init_lora_weights": "pissa"},
        {"r": 3, "rank_stabilised": True, "layers": (0, 2), "init_lora_weights": "olora"},
    )
    free_settings: ClassVar[tuple[str, ...]] = ("dropout", "init_lora_weights")

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")
    rank_stabilised: bool = False
    layers: tuple[int, ...] | None = None
    init_lora_weights: Literal["default", "pissa", "olora"] = "default"

    def __post_init__(self) -> None:
        check_least(self, 1, "r")
        check_share(self, "dropout")
        check_factor(self, "alpha")
        check_sites("targets", self.targets, (*LINEAR_SITES, *OPTIONAL_SITES))
        check_layers(self.layers)
        if self.init_lora_weights == "default":
            return
        if self.init_lora_weights not in INITIAL_PRODUCTS:
            raise ValueError(
                f"init_lora_weights: expected one of default, {', '.join(INITIAL_PRODUCTS)}, got "
                f"'{self.init_lora_weights}'"
            )
        for key, fits in (("dropout", self.dropout == 0), ("alpha", self.alpha > 0)):
            if not fits:
                expected = "0" if key == "dropout" else "more than 0"
                raise ValueError(
                    f"{key}: expected {expected} with init_lora_weights: {self.init_lora_weights}, "
                    f"got {getattr(self, key)}"
                )

    @property
    def scale(self) -> float:
        """Factor on the low-rank product."""
        return self.alpha / (math.sqrt(self.r) if self.rank_stabilised else self.r)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.targets

    @property
    def group_key(self) -> Hashable:
        return (tuple(sorted(self.targets)), self.layers, self.dropout)

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        n_layers = len(chosen_layers(self.layers, geometry))
        if self.r > geometry.hidden:
            raise ValueError(f"r: {self.r} is more than the backbone's width, {geometry.hidden}")
        if self.init_lora_weights != "default" and 2 * self.r > geometry.hidden:
            raise ValueError(
                f"r: {self.r} with init_lora_weights: {self.init_lora_weights} is an adapter of "
                f"rank {2 * self.r}, more than the backbone's width, {geometry.hidden}"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        geometry.check_linears(self.targets)
        for site in self.targets:
            shapes[f"{site}.a"] = (n_layers, self.r, geometry.width_in(site))
            shapes[f"{site}.b"] = (n_layers, geometry.width_out(site), self.r)
        return shapes

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """PEFT's initialisation: A is Kaiming uniform with a = sqrt(5), B is zero."""
        tensors = {}
        for name, shape in self.shapes(geometry).items():
            tensors[name] = torch.zeros(shape)
            if name.endswith(".a"):
                bound = 1.0 / math.sqrt(shape[-1])
                tensors[name].uniform_(-bound, bound, generator=generator)
        return tensors

    def begin(self, tensors: Tensors, weights: FrozenWeights) -> Tensors:
        """As in `Method`: A and B become parts of the frozen weights, and what subtracts their
        product stands beside them (`START_A`, `START_B`). It is not trained."""
        if self.init_lora_weights == "default":
            return tensors
        started = {name: tensor.clone() for name, tensor in tensors.items()}
        for index, layer in enumerate(chosen_layers(self.layers, weights.geometry)):
            for site in self.targets:
                frozen = weights.weight(layer, site).cpu()
                first = INITIAL_PRODUCTS[self.init_lora_weights](frozen, self.r, self.scale)
                started[f"{site}.a"][index] = first.down
                started[f"{site}.b"][index] = first.up
        for site in self.targets:
            started[site + START_A] = started[f"{site}.a"].clone()
            started[site + START_B] = -started[f"{site}.b"]
        return started

    def is_trained(self, name: str) -> bool:
        return not name.endswith((START_A, START_B))

    def bind(self, tensors: Tensors, weights: FrozenWeights) -> Tensors:
        return self._joined(tensors)

    def finalize(self, tensors: Tensors) -> tuple[Self, Tensors]:
        """As in `Method`. The rank is 2 r if the first product is subtracted, as in PEFT's own
        conversion."""
        joined, plain = self._joined(tensors), replace(self, init_lora_weights="default")
        if joined is not tensors:
            factor = math.sqrt(2) if self.rank_stabilised else 2
            plain = replace(plain, r=2 * self.r, alpha=factor * self.alpha)
        return plain, joined

    def _joined(self, tensors: Tensors) -> Tensors:
        """The tensors of one product: A and B, and beside them what subtracts the first product."""
        if self.targets[0] + START_A not in tensors:
            return tensors
        joined: Tensors = {}
        for site in self.targets:
            down = [tensors[f"{site}.a"], tensors[site + START_A]]
            up = [tensors[f"{site}.b"], tensors[site + START_B]]
            joined |= {f"{site}.a": torch.cat(down, dim=1), f"{site}.b": torch.cat(up, dim=2)}
        return joined

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first = members[0][0]
        deltas: dict[tuple[int, str], Delta] = {}
        for site in first.targets:
            product = LowRank(
                segments=group.segments,
                down=StackedWeights([tensors[f"{site}.a"] for _, tensors in members], dim=-2),
                up=StackedWeights([tensors[f"{site}.b"] for _, tensors in members], dim=-1),
                scales=tuple(method.scale for method, _ in members),
            )
            for index, layer in enumerate(chosen_layers(first.layers, group.geometry)):
                deltas[layer, site] = partial(_delta, product, group, first.dropout, index)
        return GroupEdits(deltas)

    def weight_changes(
        self, tensors: Tensors, weights: FrozenWeights
    ) -> dict[tuple[int, str], Tensor]:
        return {
            (layer, site): self.scale * tensors[f"{site}.b"][index] @ tensors[f"{site}.a"][index]
            for index, layer in enumerate(chosen_layers(self.layers, weights.geometry))
            for site in self.targets
        }

    @classmethod
    def weighted_sum(
        cls, members: Sequence[tuple[Self, Tensors]], weights: Sequence[float], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        """As in `Method`: the ranks stand beside each other, weights and scales are in B."""
        layers = all_layers((method.layers for method, _ in members), geometry)
        rank = sum(method.r for method, _ in members)
        total = cls(
            r=rank,
            alpha=float(rank),
            targets=tuple(dict.fromkeys(site for method, _ in members for site in method.targets)),
            layers=layers_setting(layers, geometry),
        )
        tensors = {name: torch.zeros(shape) for name, shape in total.shapes(geometry).items()}
        first = 0
        for (method, own), weight in zip(members, weights, strict=True):
            rows = [layers.index(layer) for layer in chosen_layers(method.layers, geometry)]
            ranks = slice(first, first + method.r)
            for site in method.targets:
                tensors[f"{site}.a"][rows, ranks] = own[f"{site}.a"]
                tensors[f"{site}.b"][rows, :, ranks] = own[f"{site}.b"] * (weight * method.scale)
            first += method.r
        return total, tensors

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return {
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilised,
            **target_settings(self.targets, self.layers, geometry),
            "init_lora_weights": True,
            "bias": "none",
            "fan_in_fan_out": False,
        }

    @classmethod
    def from_peft(cls, folder: PeftFolder) -> PeftReading:
        """As in `Method`, for every method of PEFT that changes weights alone (`peft_products`).

        Products of several ranks get the largest one, sites without a product get zeros.
        """
        geometry, changes = folder.backbone.geometry, {}
        edited: dict[tuple[int, str], Product] = {}
        for path, product in read_products(folder).items():
            places = folder.places(path)
            edited |= {
                (place.layer, place.site): product.columns(place.columns) for place in places
            }
            if not places:
                changes[path] = product.delta
        if not edited:
            example = next(iter(changes), "nothing")
            raise ValueError(f"no weight is at a linear of the backbone's layers; one is {example}")
        layers = tuple(sorted({layer for layer, _ in edited}))
        rank = max(len(product.down) for product in edited.values())
        scales = {product.scale for product in edited.values()}
        scale = scales.pop() if len(scales) == 1 else 1.0
        stabilised = bool(folder.config.get("use_rslora"))
        method = cls(
            r=rank,
            alpha=scale * (math.sqrt(rank) if stabilised else rank),
            dropout=float(folder.config.get("lora_dropout") or 0.0),
            targets=tuple(s for s in geometry.sites if any(site == s for _, site in edited)),
            rank_stabilised=stabilised,
            layers=layers_setting(layers, geometry),
        )
        tensors = {name: torch.zeros(shape) for name, shape in method.shapes(geometry).items()}
        for (layer, site), (down, up, own_scale) in edited.items():
            index = layers.index(layer)
            tensors[f"{site}.a"][index, : len(down)] = down
            tensors[f"{site}.b"][index, :, : len(down)] = up * (own_scale / scale)
        return PeftReading(method, tensors, changes)

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        return {
            f"base_model.model.{root}{geometry.peft_path(layer, site)}.{file}.weight": (
                f"{site}.{name}",
                index,
            )
            for index, layer in enumerate(chosen_layers(self.layers, geometry))
            for site in self.targets
            for file, name in (("lora_A", "a"), ("lora_B", "b"))
        }


def _delta(
    product: LowRank, group: Group, dropout: float, index: int, y: Tensor, x: Tensor
) -> Tensor:
    return product.add(y, group.drop(x, dropout), index)
