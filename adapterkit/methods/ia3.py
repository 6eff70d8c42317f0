"""(IA)^3: keys, values and inner activations times trained vectors (Liu et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import INPUT_SITES, LINEAR_SITES, OPTIONAL_SITES, Geometry
from ..ops.scale_and_shift import ScaleAndShift
from .base import Method, PeftReading, Tensors
from .file_keys import FileKeys
from .group import Group, GroupEdits
from .merged_form import ParameterChange
from .peft_folder import PeftFolder
from .peft_settings import check_settings
from .places import all_layers, check_layers, check_sites, chosen_layers, layers_setting

INPUT_OF = {linear: site for site, linear in INPUT_SITES.items()}
"""Linear to the site that is its input."""


@dataclass(frozen=True)
class IA3(Method):
    """`l * (W x + b)`, or `W (l * x) + b`, with one trained number for each output or input.

    Attributes:
        targets: Linears to edit: query, key, value, attention_output, ffn_up, ffn_down; qkv where
            one linear computes query, key and value, as PEFT edits it; and ffn_gate where the gate
            of the feed-forward block is a linear of its own.
        feedforward: Those of the targets whose input is multiplied in place of their output:
            attention_output and ffn_down.
        layers: Layers to edit, counted from 0; all if omitted.
    """

    type: ClassVar[str] = "ia3"
    peft_type: ClassVar[str] = "IA3"
    learning_rate: ClassVar[float] = 1e-2
    head_prefix: ClassVar[str] = "base_model.model."
    table_order: ClassVar[int] = 34
    free_settings: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"targets": LINEAR_SITES, "feedforward": ("attention_output",), "layers": (0, 2)},
    )

    targets: tuple[str, ...] = ("key", "value", "ffn_down")
    feedforward: tuple[str, ...] = ("ffn_down",)
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_sites("targets", self.targets, (*LINEAR_SITES, *OPTIONAL_SITES))
        if self.feedforward:
            known = [site for site in self.targets if site in INPUT_OF]
            check_sites("feedforward", self.feedforward, known)
        check_layers(self.layers)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self._site(linear) for linear in self.targets)

    def _site(self, linear: str) -> str:
        """Where a target is multiplied."""
        return INPUT_OF[linear] if linear in self.feedforward else linear

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        n_layers = len(chosen_layers(self.layers, geometry))
        shapes: dict[str, tuple[int, ...]] = {}
        geometry.check_linears(self.targets)
        for linear, site in zip(self.targets, self.sites, strict=True):
            width = geometry.width_out(site)
            # The last two dimensions are those of PEFT's files.
            shape = (n_layers, 1, width) if site in INPUT_SITES else (n_layers, width, 1)
            shapes[linear] = shape
        return shapes

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """All ones."""
        return {name: torch.ones(shape) for name, shape in self.shapes(geometry).items()}

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first = members[0][0]
        deltas: dict[tuple[int, str], Delta] = {}
        for linear, site in zip(first.targets, first.sites, strict=True):
            scales = [tensors[linear].flatten(1) - 1 for _, tensors in members]
            op = ScaleAndShift(group.segments, scales)
            for index, layer in enumerate(chosen_layers(first.layers, group.geometry)):
                deltas[layer, site] = partial(_scale, op, index)
        return GroupEdits(deltas)

    @classmethod
    def weighted_sum(
        cls, members: Sequence[tuple[Self, Tensors]], weights: Sequence[float], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        """As in `Method`: an adapter adds its factors less one, times what it multiplies."""
        sites = {site for method, _ in members for site in method.sites}
        targets = tuple(dict.fromkeys(one for method, _ in members for one in method.targets))
        for linear in targets:
            if {linear, INPUT_OF.get(linear)} <= sites:
                raise ValueError(f"some multiply the input of {linear}, others its output")
        _check_overlap(targets)
        layers = all_layers((method.layers for method, _ in members), geometry)
        total = cls(
            targets=targets,
            feedforward=tuple(one for one in targets if INPUT_OF.get(one) in sites),
            layers=layers_setting(layers, geometry),
        )
        tensors = {name: torch.ones(shape) for name, shape in total.shapes(geometry).items()}
        for (method, own), weight in zip(members, weights, strict=True):
            rows = [layers.index(layer) for layer in chosen_layers(method.layers, geometry)]
            for linear, factors in own.items():
                tensors[linear][rows] += weight * (factors - 1)
        return total, tensors

    @property
    def multiplies(self) -> bool:
        return True

    def parameter_changes(
        self, tensors: Tensors, weights: FrozenWeights
    ) -> dict[tuple[int, str], dict[str, ParameterChange]]:
        _check_overlap(self.targets)
        changes: dict[tuple[int, str], dict[str, ParameterChange]] = {}
        for index, layer in enumerate(chosen_layers(self.layers, weights.geometry)):
            for linear in self.targets:
                factor = tensors[linear][index]  # [out, 1] or [1, in]
                changes[layer, linear] = {"weight": ParameterChange(factor=factor)}
                if linear not in self.feedforward:
                    changes[layer, linear]["bias"] = ParameterChange(factor=factor[:, 0])
        return changes

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return {
            "target_modules": self._pattern(self.targets, geometry),
            # PEFT reads a pattern of no module as none.
            "feedforward_modules": self._pattern(self.feedforward, geometry),
            "fan_in_fan_out": False,
            "init_ia3_weights": True,
        }

    def _pattern(self, linears: Collection[str], geometry: Geometry) -> str | list[str]:
        """Regular expression of linears in the chosen layers, as PEFT matches whole paths."""
        if not linears:
            return []
        layers = "|".join(map(str, chosen_layers(self.layers, geometry)))
        paths = "|".join(re.escape(geometry.sites[site].peft_path(site)) for site in linears)
        return rf"(?:.*\.)?{re.escape(geometry.layers_path)}\.(?:{layers})\.(?:{paths})"

    @classmethod
    def from_peft(cls, folder: PeftFolder) -> PeftReading:
        """As in `Method`. Places without a vector get ones."""
        check_settings(folder.config, ("feedforward_modules", "init_ia3_weights"))
        geometry = folder.backbone.geometry
        vectors: dict[tuple[int, str], Tensor] = {}
        inner: dict[str, bool] = {}
        for path, tensors in folder.modules({"ia3_l"}).items():
            vector, (n_out, n_in) = tensors["ia3_l"], folder.shape(path)
            is_input = tuple(vector.shape) == (1, n_in)
            if not is_input and tuple(vector.shape) != (n_out, 1):
                raise ValueError(f"'{path}': ia3_l has shape {list(vector.shape)}")
            places = folder.places(path)
            if not places:
                raise ValueError(f"'{path}' is trained, which is outside the layers")
            for layer, site, columns in places:
                if is_input and site not in INPUT_OF:
                    raise ValueError(
                        f"feedforward_modules: the input of '{path}' cannot be edited here"
                    )
                if inner.setdefault(site, is_input) != is_input:
                    raise ValueError(f"feedforward_modules: '{path}' is one in some layers only")
                vectors[layer, site] = vector if columns is None else vector[slice(*columns)]
        layers = tuple(sorted({layer for layer, _ in vectors}))
        method = cls(
            targets=tuple(site for site in geometry.sites if site in inner),
            feedforward=tuple(site for site in geometry.sites if inner.get(site)),
            layers=layers_setting(layers, geometry),
        )
        tensors = method.init_tensors(geometry, torch.Generator())
        for (layer, site), vector in vectors.items():
            tensors[site][layers.index(layer)] = vector
        return PeftReading(method, tensors)

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        return {
            f"base_model.model.{root}{geometry.peft_path(layer, site)}.ia3_l": (site, index)
            for index, layer in enumerate(chosen_layers(self.layers, geometry))
            for site in self.targets
        }


def _check_overlap(targets: Sequence[str]) -> None:
    """Refuses targets that multiply the outputs of a fused linear twice.

    Raises:
        ValueError: There are such.
    """
    if "qkv" in targets and {"query", "key", "value"} & {*targets}:
        raise ValueError("qkv and a part of it are multiplied")


def _scale(op: ScaleAndShift, index: int, y: Tensor, x: Tensor) -> Tensor:
    return op.add(y, y, index)
