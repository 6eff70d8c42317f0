"""AdapterFusion: attention mixes what several frozen bottlenecks add (Pfeiffer et al. 2021)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import Geometry
from ..ops.low_rank import LowRank
from ..ops.stacked_weights import StackedWeights
from .base import Method, Tensors
from .bottleneck import ACTIVATIONS, PLACEMENTS, Bottleneck
from .group import Group, GroupEdits
from .places import check_layers, chosen_layers

TRAINED = ("query", "query_bias", "key", "value")
"""Ends of the names of the trained tensors; the others are those of the fused adapters."""


@dataclass(frozen=True)
class Fusion(Method):
    """`y + sum_n s_n V z_n` with `s = softmax_n((Q x + q) . K z_n)` and `z_n = U_n f(D_n x + d_n) +
    u_n`: in every layer, trained attention over what N frozen bottlenecks add.

    Conventions are those of the library `adapters` (its class `BertFusion`, version 1.3): the query
    is the x that the bottlenecks read, at `ffn_norm` the normed sum; keys and values are what they
    add, without the residual stream, which is added after the sum; scores are not divided by the
    root of the width. Q, K and V start as there: Q and K random, V the identity. A bias of the key
    would add the same number to all scores of a token, so there is none.

    Attributes:
        of: The saved bottleneck adapters (folders, or names in the store), two or more of one
            placement and the same layers. Their weights are copied and stay as they are.
        placement: That of the adapters; this and the settings below are taken from them.
        sizes: Width of each bottleneck.
        activations: Activation of each bottleneck.
        layers: Layers that they edit, counted from 0; all if omitted.
    """

    type: ClassVar[str] = "fusion"
    peft_type: ClassVar[str] = "ADAPTER_FUSION"
    parent_type: ClassVar[str | None] = Bottleneck.type
    learning_rate: ClassVar[float] = 5e-5
    low_rank_only: ClassVar[bool] = True
    table_order: ClassVar[int] = 32
    free_settings: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"of": ("acme/a", "acme/b")},
        {
            "of": ("acme/a", "acme/b", "acme/c"),
            "placement": "houlsby",
            "sizes": (4, 3, 5),
            "activations": ("gelu", "tanh", "relu"),
            "layers": (0, 2),
        },
    )

    of: tuple[str, ...] = ()
    placement: Literal["pfeiffer", "houlsby", "parallel"] = "pfeiffer"
    sizes: tuple[int, ...] = (8, 8)
    activations: tuple[str, ...] = ("relu", "relu")
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise ValueError(
                f"placement: expected one of {', '.join(PLACEMENTS)}, got '{self.placement}'"
            )
        if len(self.of) == 1 or len(set(self.of)) != len(self.of):
            raise ValueError(f"of: expected two or more distinct adapters, got {list(self.of)}")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes: expected 1 or more for each, got {list(self.sizes)}")
        if len(self.activations) != len(self.sizes) or not set(self.activations) <= {*ACTIVATIONS}:
            raise ValueError(
                f"activations: expected one of {', '.join(ACTIVATIONS)} for each of "
                f"{len(self.sizes)} sizes, got {list(self.activations)}"
            )
        check_layers(self.layers)

    @property
    def parents(self) -> tuple[str, ...]:
        return self.of

    @property
    def sites(self) -> tuple[str, ...]:
        return PLACEMENTS[self.placement]

    @property
    def group_key(self) -> Hashable:
        return (self.placement, self.sizes, self.activations, self.layers)

    def with_parents(
        self, parents: Mapping[str, tuple[Method, Tensors]], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        """As in `Method`: the bottlenecks stand beside each other; their factors are in what leads
        out of them."""
        if not parents:
            raise ValueError(f"of: name two or more saved {self.parent_type} adapters")
        members: list[tuple[Bottleneck, Tensors]] = []
        for name, (method, tensors) in parents.items():
            if not isinstance(method, Bottleneck):
                raise ValueError(
                    f"of: {name} is a {method.type} adapter; only those of the method "
                    f"{self.parent_type} are fused"
                )
            members.append((method, tensors))
            first = members[0][0]
            for key in ("placement", "layers"):
                own, others = getattr(method, key), getattr(first, key)
                if own != others:
                    raise ValueError(
                        f"of: {next(iter(parents))} and {name} differ in {key}: {others}, {own}"
                    )
        fused = self._over(members)
        tensors = {}
        for site in fused.sites:
            for part, dim in (("down", 1), ("down_bias", 1), ("up", 2)):
                pieces = [own[f"{site}.{part}"] for _, own in members]
                if part == "up":
                    pieces = [method.scaling * own[f"{site}.up"] for method, own in members]
                tensors[f"{site}.{part}"] = torch.cat(pieces, dim).float()
            biases = [method.scaling * own[f"{site}.up_bias"] for method, own in members]
            tensors[f"{site}.up_bias"] = torch.stack(biases, 1).float()
        return fused, tensors

    def _over(self, members: Sequence[tuple[Bottleneck, Tensors]]) -> Self:
        """The method with the settings of the adapters that it fuses.

        Raises:
            ValueError: It has other settings than they.
        """
        first = members[0][0]
        site = first.sites[0]
        taken: dict[str, Any] = {
            "placement": first.placement,
            "sizes": tuple(own[f"{site}.down"].shape[1] for _, own in members),
            "activations": tuple(method.activation for method, _ in members),
            "layers": first.layers,
        }
        for one in fields(self):
            given = getattr(self, one.name)
            if one.name in taken and given not in (one.default, taken[one.name]):
                raise ValueError(
                    f"{one.name}: the adapters have {taken[one.name]}, got {given}; leave it out"
                )
        return replace(self, **taken)

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        n_layers, hidden = len(chosen_layers(self.layers, geometry)), geometry.hidden
        width = sum(self.sizes)
        if max(self.sizes) > geometry.intermediate:
            raise ValueError(
                f"sizes: {max(self.sizes)} is more than the backbone's widest layer, "
                f"{geometry.intermediate}"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        for site in self.sites:
            shapes[f"{site}.down"] = (n_layers, width, hidden)
            shapes[f"{site}.down_bias"] = (n_layers, width)
            shapes[f"{site}.up"] = (n_layers, hidden, width)
            shapes[f"{site}.up_bias"] = (n_layers, len(self.sizes), hidden)
            for name in TRAINED:
                shape = (n_layers, hidden, hidden)
                shapes[f"{site}.{name}"] = shape[:2] if name == "query_bias" else shape
        return shapes

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """Q and K are normal with BERT's standard deviation, 0.02; V is the identity; q is zero.

        The bottlenecks are new ones, in whose place `with_parents` gives those of the adapters.
        """
        tensors = {name: torch.zeros(shape) for name, shape in self.shapes(geometry).items()}
        for name, tensor in tensors.items():
            part = name.rpartition(".")[2]
            if part == "value":
                tensor.copy_(torch.eye(geometry.hidden))
            elif part in ("query", "key", "down"):
                tensor.normal_(std=0.02, generator=generator)
        return tensors

    def is_trained(self, name: str) -> bool:
        return name.rpartition(".")[2] in TRAINED

    def bind(self, tensors: Tensors, weights: FrozenWeights) -> Tensors:
        """As in `Method`: the fusion as one product of low rank, `[L, 2 S + N]` for bottlenecks of
        S units together.

        Keys and values are linear in the units f and in u, so with `k_n = K U_n` the score of n is
        `f_n . (k_n^T Q x + k_n^T q) + K u_n . (Q x + q)`. Q, K and V are thus multiplied once, and
        not for every token.
        """
        bound: Tensors = {}
        for site in self.sites:
            own = {part: tensors[f"{site}.{part}"] for part in ("down", "up", "up_bias", *TRAINED)}
            keys = torch.cat([own["up"], own["up_bias"].transpose(1, 2)], 2)  # [L, h, S + N]
            readers = (own["key"] @ keys).transpose(1, 2)
            down = torch.cat([own["down"], readers @ own["query"]], 1)
            scores = (readers @ own["query_bias"][:, :, None]).squeeze(2)
            values = own["value"] @ keys
            bound[f"{site}.down"] = down
            bound[f"{site}.down_bias"] = torch.cat([tensors[f"{site}.down_bias"], scores], 1)
            # The units' factors in the scores have no output of their own.
            bound[f"{site}.up"] = F.pad(values, (0, sum(self.sizes)))
        return bound

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first = members[0][0]
        deltas: dict[tuple[int, str], Delta] = {}
        for site in first.sites:
            down, biases, up = (
                StackedWeights([tensors[f"{site}.{part}"] for _, tensors in members], dim)
                for part, dim in (("down", -2), ("down_bias", -1), ("up", -1))
            )
            product = LowRank(
                segments=group.segments,
                down=down,
                up=up,
                scales=(1.0,) * len(members),
                down_bias=biases,
                activation=first._mix,
            )
            for index, layer in enumerate(chosen_layers(first.layers, group.geometry)):
                deltas[layer, site] = partial(product.add, layer=index)
        return GroupEdits(deltas)

    def _mix(self, inner: Tensor) -> Tensor:
        """The units of all bottlenecks times the attention to each, then the attention itself.

        Args:
            inner: `[..., r]`: S units before their activation, their S factors in the scores, the N
                constant scores, and columns that nobody reads.

        Returns:
            `[..., r]`: S units and N shares, then zeros.
        """
        width, n = sum(self.sizes), len(self.sizes)
        units = [
            ACTIVATIONS[activation](own)
            for activation, own in zip(
                self.activations, inner[..., :width].split(self.sizes, -1), strict=True
            )
        ]
        factors = inner[..., width : 2 * width].split(self.sizes, -1)
        products = [(own * factor).sum(-1) for own, factor in zip(units, factors, strict=True)]
        scores = torch.stack(products, -1) + inner[..., 2 * width : 2 * width + n]
        shares = scores.softmax(-1)
        weighted = [own * shares[..., i, None] for i, own in enumerate(units)]
        mixed = torch.cat([*weighted, shares], -1)
        return F.pad(mixed, (0, inner.shape[-1] - mixed.shape[-1]))
