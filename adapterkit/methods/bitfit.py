"""BitFit: trained biases of linears and layer norms (Ben Zaken et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch

from ..backbone.edits import Delta
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import LINEAR_SITES, NORM_SITES, Geometry
from ..ops.scale_and_shift import ScaleAndShift
from .base import Method, Tensors
from .group import Group, GroupEdits
from .merged_form import ParameterChange
from .places import all_layers, check_layers, check_sites, chosen_layers, layers_setting


@dataclass(frozen=True)
class BitFit(Method):
    """`W x + b + c` with a trained c, also where the backbone has no bias b.

    Attributes:
        targets: What gets a bias: query, key, value, attention_output, ffn_up, ffn_down,
            attention_layer_norm, ffn_layer_norm; and ffn_gate where a layer has such a linear. By
            default all but key, whose bias adds the same number to all scores of a token, which
            changes nothing, and the gate.
        layers: Layers to edit, counted from 0; all if omitted.
    """

    type: ClassVar[str] = "bitfit"
    peft_type: ClassVar[str] = "BITFIT"
    learning_rate: ClassVar[float] = 5e-3
    table_order: ClassVar[int] = 36
    free_settings: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"targets": ("query", "ffn_up"), "layers": (0, 2)},
    )

    targets: tuple[str, ...] = (
        "query",
        "value",
        "attention_output",
        "attention_layer_norm",
        "ffn_up",
        "ffn_down",
        "ffn_layer_norm",
    )
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_sites("targets", self.targets, (*LINEAR_SITES, "ffn_gate", *NORM_SITES))
        check_layers(self.layers)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.targets

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        geometry.check_norms(self.targets)
        geometry.check_linears([site for site in self.targets if site not in NORM_SITES])
        n_layers = len(chosen_layers(self.layers, geometry))
        return {f"{site}.bias": (n_layers, geometry.width_out(site)) for site in self.targets}

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """All zeros: a new adapter changes nothing."""
        return {name: torch.zeros(shape) for name, shape in self.shapes(geometry).items()}

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first = members[0][0]
        deltas: dict[tuple[int, str], Delta] = {}
        for site in first.targets:
            shifts = [tensors[f"{site}.bias"] for _, tensors in members]
            op = ScaleAndShift(group.segments, shifts=shifts)
            for index, layer in enumerate(chosen_layers(first.layers, group.geometry)):
                deltas[layer, site] = partial(op.add, layer=index)
        return GroupEdits(deltas)

    def parameter_changes(
        self, tensors: Tensors, weights: FrozenWeights
    ) -> dict[tuple[int, str], dict[str, ParameterChange]]:
        return {
            (layer, site): {"bias": ParameterChange(tensors[f"{site}.bias"][index])}
            for index, layer in enumerate(chosen_layers(self.layers, weights.geometry))
            for site in self.targets
        }

    @classmethod
    def weighted_sum(
        cls, members: Sequence[tuple[Self, Tensors]], weights: Sequence[float], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        layers = all_layers((method.layers for method, _ in members), geometry)
        total = cls(
            targets=tuple(dict.fromkeys(site for method, _ in members for site in method.targets)),
            layers=layers_setting(layers, geometry),
        )
        tensors = {name: torch.zeros(shape) for name, shape in total.shapes(geometry).items()}
        for (method, own), weight in zip(members, weights, strict=True):
            rows = [layers.index(layer) for layer in chosen_layers(method.layers, geometry)]
            for name, bias in own.items():
                tensors[name][rows] += weight * bias
        return total, tensors
