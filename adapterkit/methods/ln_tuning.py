"""LN tuning: trained weights and biases of layer norms (Zhao et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import ENTRY, NORM_SITES, Geometry
from ..ops.scale_and_shift import ScaleAndShift
from .base import Method, PeftReading, Tensors
from .group import Group, GroupEdits
from .merged_form import ParameterChange
from .peft_folder import PeftFolder
from .peft_settings import check_settings
from .places import all_layers, check_layers, check_sites, layers_at, layers_setting

PARTS = {"ln_tuning_layers.weight": "weight", "ln_tuning_layers.bias": "bias"}
"""Last parts of the names of tensors in PEFT's files, to the parameters of a layer norm."""

LARGEST_FACTOR = 1e3
"""By how much a norm before the layers may be enlarged, so that rounding errors stay small."""


@dataclass(frozen=True)
class LNTuning(Method):
    """`(w + v) * n + (b + c)` for what a layer norm returns, with trained v and c.

    n is the normed input, w and b are the frozen weight and bias. An adapter holds the differences
    v and c; PEFT's folders, which hold the sums, are converted when they are read. Where a layer
    has no norm (the first layer of ModernBERT before its attention), v and c act on what enters.

    Attributes:
        targets: attention_layer_norm and ffn_layer_norm, the norms of the two blocks of a layer,
            and entry, the states that enter the first layer: there `(1 + v) * y + c`, which is as
            much as training the norm of the embeddings.
        layers: Layers to edit, counted from 0; all if omitted.
    """

    type: ClassVar[str] = "ln_tuning"
    peft_type: ClassVar[str] = "LN_TUNING_DIFFERENCES"
    reads_peft_types: ClassVar[tuple[str, ...]] = ("LN_TUNING",)
    learning_rate: ClassVar[float] = 5e-3
    table_order: ClassVar[int] = 38
    free_settings: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"targets": (*NORM_SITES, ENTRY)},
        {"targets": ("ffn_layer_norm",), "layers": (0, 2)},
    )

    targets: tuple[str, ...] = NORM_SITES
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_sites("targets", self.targets, (*NORM_SITES, ENTRY))
        check_layers(self.layers)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.targets

    def _layers(self, site: str, geometry: Geometry) -> tuple[int, ...]:
        """The layers that are edited at a site."""
        return layers_at(site, self.layers, geometry)

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        geometry.check_norms(self.targets)
        return {
            f"{site}.{part}": (len(self._layers(site, geometry)), geometry.hidden)
            for site in self.targets
            for part in ("weight", "bias")
        }

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """All zeros: a new adapter changes nothing."""
        return {name: torch.zeros(shape) for name, shape in self.shapes(geometry).items()}

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first = members[0][0]
        deltas: dict[tuple[int, str], Delta] = {}
        for site in first.targets:
            scales, shifts = (
                [tensors[f"{site}.{part}"] for _, tensors in members] for part in ("weight", "bias")
            )
            op = ScaleAndShift(group.segments, scales, shifts)
            for index, layer in enumerate(first._layers(site, group.geometry)):
                deltas[layer, site] = partial(op.add, layer=index)
        return GroupEdits(deltas)

    @property
    def multiplies(self) -> bool:
        return ENTRY in self.targets

    def parameter_changes(
        self, tensors: Tensors, weights: FrozenWeights
    ) -> dict[tuple[int, str], dict[str, ParameterChange]]:
        changes: dict[tuple[int, str], dict[str, ParameterChange]] = {}
        for site in self.targets:
            for index, layer in enumerate(self._layers(site, weights.geometry)):
                weight, bias = (tensors[f"{site}.{part}"][index] for part in ("weight", "bias"))
                if site == ENTRY:  # all that the norm before the layers returns
                    factor = 1 + weight
                    own = {
                        "weight": ParameterChange(factor=factor),
                        "bias": ParameterChange(bias, factor),
                    }
                else:
                    own = {"weight": ParameterChange(weight), "bias": ParameterChange(bias)}
                changes[layer, site] = own
        return changes

    @classmethod
    def weighted_sum(
        cls, members: Sequence[tuple[Self, Tensors]], weights: Sequence[float], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        total = cls(
            targets=tuple(dict.fromkeys(site for method, _ in members for site in method.targets)),
            layers=layers_setting(
                all_layers((method.layers for method, _ in members), geometry), geometry
            ),
        )
        tensors = {name: torch.zeros(shape) for name, shape in total.shapes(geometry).items()}
        for (method, own), weight in zip(members, weights, strict=True):
            for site in method.targets:
                layers = total._layers(site, geometry)
                rows = [layers.index(layer) for layer in method._layers(site, geometry)]
                for part in ("weight", "bias"):
                    tensors[f"{site}.{part}"][rows] += weight * own[f"{site}.{part}"]
        return total, tensors

    @classmethod
    def from_peft(cls, folder: PeftFolder) -> PeftReading:
        """As in `Method`. Norms that the folder does not train are not changed."""
        if folder.config["peft_type"] == cls.peft_type:
            return super().from_peft(folder)
        check_settings(folder.config, ())
        geometry = folder.backbone.geometry
        found: dict[tuple[int, str], Mapping[str, Tensor]] = {}
        for path, trained in folder.modules(PARTS).items():
            frozen = folder.frozen_norm(path)
            tensors = {PARTS[name]: tensor for name, tensor in trained.items()}
            if {name: t.shape for name, t in frozen.items()} != {
                name: t.shape for name, t in tensors.items()
            }:
                raise ValueError(f"'{path}': weight and bias are not those of the layer norm")
            places = folder.norm_places(path)
            if not places:
                found[0, ENTRY] = _entry_change(folder, path, frozen, tensors)
            change = {name: tensors[name] - frozen[name] for name in frozen}
            found |= dict.fromkeys(places, change)
        layers = tuple(sorted({layer for layer, site in found if site != ENTRY})) or (0,)
        method = cls(
            targets=tuple(s for s in (*NORM_SITES, ENTRY) if any(site == s for _, site in found)),
            layers=layers_setting(layers, geometry),
        )
        stacked = method.init_tensors(geometry, torch.Generator())
        for (layer, site), own in found.items():
            for part, tensor in own.items():
                stacked[f"{site}.{part}"][method._layers(site, geometry).index(layer)] = tensor
        return PeftReading(method, stacked)


def _entry_change(
    folder: PeftFolder, path: str, frozen: Mapping[str, Tensor], tuned: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The change of the states that enter the layers, for that of the norm before the layers.

    Args:
        folder: The folder.
        path: Path of the norm.
        frozen: Its weight and bias in the backbone.
        tuned: Its trained weight and bias.

    Raises:
        ValueError: What the norm returns does not enter the layers, or cannot be computed exactly.
    """
    if path.removeprefix(folder.root) != folder.backbone.geometry.entry_norm:
        raise ValueError(f"'{path}' is trained, and what it returns does not enter the layers")
    factor = tuned["weight"] / frozen["weight"]
    if not bool((factor.abs() < LARGEST_FACTOR).all()):
        raise ValueError(f"'{path}': a frozen weight is too small for the trained one")
    shift = tuned["bias"] - factor * frozen["bias"] if "bias" in frozen else factor * 0
    return {"weight": factor - 1, "bias": shift}
