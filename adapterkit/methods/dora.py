"""DoRA: the rows of a weight that LoRA changed are scaled to trained lengths (Liu et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import LINEAR_SITES, Geometry
from ..ops.scale_and_shift import ScaleAndShift
from .base import PeftReading, Tensors
from .file_keys import FileKeys
from .group import Group, GroupEdits
from .lora import LoRA
from .peft_folder import PeftFolder
from .peft_lora import KEEPS_BASE, initialisation
from .peft_products import read_products
from .places import chosen_layers

MAGNITUDE = "lora_magnitude_vector"
"""PEFT's name of the trained lengths."""


@dataclass(frozen=True)
class DoRA(LoRA):
    """`m / |W + scale * B A| * (W + scale * B A) x + bias` at the chosen linears.

    m has one trained number for each output, which starts as the length of the frozen weight's row.
    As in the paper (section 4.3) and in PEFT, the length in the denominator is a constant to the
    gradient. In training, dropout acts on the low-rank path alone.
    """

    type: ClassVar[str] = "dora"
    low_rank_only: ClassVar[bool] = False
    exact_gradients: ClassVar[bool] = False
    reads_peft_types: ClassVar[tuple[str, ...]] = ()
    table_order: ClassVar[int] = 12
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"r": 3, "alpha": 5.0, "targets": LINEAR_SITES, "layers": (0, 2)},
        {"r": 4, "rank_stabilised": True, "dropout": 0.1},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_lora_weights != "default":
            raise ValueError(
                f"init_lora_weights: {self.type} has 'default' alone, got "
                f"'{self.init_lora_weights}'"
            )

    @classmethod
    def wrote(cls, config: Mapping[str, Any]) -> bool:
        return super().wrote(config) and bool(config.get("use_dora"))

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        n_layers = len(chosen_layers(self.layers, geometry))
        lengths = {
            f"{site}.magnitude": (n_layers, geometry.width_out(site)) for site in self.targets
        }
        return super().shapes(geometry) | lengths

    def begin(self, tensors: Tensors, weights: FrozenWeights) -> Tensors:
        """The lengths become those of the changed rows, so a new adapter changes nothing."""
        lengths = {
            f"{site}.magnitude": self._lengths(tensors, weights, site).cpu()
            for site in self.targets
        }
        return tensors | lengths

    def bind(self, tensors: Tensors, weights: FrozenWeights) -> Tensors:
        """As in `Method`: `gain` is the factor on each output less 1, `shift` restores the bias."""
        bound = dict(tensors)
        layers = chosen_layers(self.layers, weights.geometry)
        for site in self.targets:
            gain = tensors[f"{site}.magnitude"] / self._lengths(tensors, weights, site) - 1
            bound[f"{site}.gain"] = gain
            biases = [weights.bias(layer, site) for layer in layers]
            known = [bias for bias in biases if bias is not None]
            if known:
                bound[f"{site}.shift"] = -gain * torch.stack(known)
        return bound

    @torch.no_grad()
    def _lengths(self, tensors: Tensors, weights: FrozenWeights, site: str) -> Tensor:
        """Length of each row of the changed weight of a site, `[L, out]`."""
        rows = [
            torch.linalg.vector_norm(changed, dim=1)
            for _, changed in self._changed_weights(tensors, weights, (site,))
        ]
        return torch.stack(rows).clamp(min=torch.finfo(torch.float32).tiny)

    def _changed_weights(
        self, tensors: Tensors, weights: FrozenWeights, sites: Sequence[str]
    ) -> Iterator[tuple[tuple[int, str], Tensor]]:
        """(layer, site) and `W + scale * B A`, `[out, in]`, one at a time."""
        for index, layer in enumerate(chosen_layers(self.layers, weights.geometry)):
            for site in sites:
                frozen = weights.weight(layer, site)
                a, b = (tensors[f"{site}.{part}"][index].to(frozen.device) for part in "ab")
                yield (layer, site), frozen + self.scale * (b @ a)

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first, products = members[0][0], super().edits(members, group).deltas
        deltas: dict[tuple[int, str], Delta] = {}
        for site in first.targets:
            gains, shifts = (
                [tensors[key] for _, tensors in members if (key := f"{site}.{part}") in tensors]
                for part in ("gain", "shift")
            )
            op = ScaleAndShift(group.segments, gains, shifts or None)
            for index, layer in enumerate(chosen_layers(first.layers, group.geometry)):
                deltas[layer, site] = partial(_delta, products[layer, site], op, index)
        return GroupEdits(deltas)

    @property
    def multiplies(self) -> bool:
        return True

    def weight_changes(
        self, tensors: Tensors, weights: FrozenWeights
    ) -> dict[tuple[int, str], Tensor]:
        changes, bound = {}, self.bind(tensors, weights)
        layers = chosen_layers(self.layers, weights.geometry)
        for (layer, site), changed in self._changed_weights(tensors, weights, self.targets):
            factor = 1 + bound[f"{site}.gain"][layers.index(layer), :, None]
            changes[layer, site] = factor * changed - weights.weight(layer, site)
        return changes

    @classmethod
    def weighted_sum(
        cls, members: Sequence[tuple[Self, Tensors]], weights: Sequence[float], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        """Refused, as in `Method`: the lengths are no sum."""
        return super(LoRA, cls).weighted_sum(members, weights, geometry)

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return {**super().config(geometry), "use_dora": True}

    @classmethod
    def from_peft(cls, folder: PeftFolder) -> PeftReading:
        """As in `Method`. Linears of other layers keep their lengths.

        A linear outside the layers has no low-rank path here: its change is that of the weight.
        """
        start = initialisation(folder.config)
        if start not in KEEPS_BASE:
            raise ValueError(f"init_lora_weights = {start!r:.80} with use_dora is not supported")
        products = {n: t for n, t in folder.tensors.items() if not n.endswith(f".{MAGNITUDE}")}
        plain = replace(folder, config={**folder.config, "use_dora": False}, tensors=products)
        reading = super().from_peft(plain)
        method = cast(Self, reading.method)
        geometry, weights = folder.backbone.geometry, folder.backbone.frozen_weights
        layers = chosen_layers(method.layers, geometry)
        tensors = method.begin(reading.tensors, weights)
        for path in {name.rpartition(".lora_")[0] for name in products}:
            if f"{path}.{MAGNITUDE}" not in folder.tensors:
                raise ValueError(f"'{path}': tensor '{MAGNITUDE}' is missing")
            magnitude = folder.tensors[f"{path}.{MAGNITUDE}"].float()
            for layer, site, columns in folder.places(path):
                own = magnitude if columns is None else magnitude[slice(*columns)]
                row = tensors[f"{site}.magnitude"][layers.index(layer)]
                if own.shape != row.shape:
                    raise ValueError(f"'{path}': {MAGNITUDE} has shape {list(magnitude.shape)}")
                row.copy_(own)
        changes = {path: _change(folder, path) for path in reading.changes}
        return PeftReading(method, tensors, changes)

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        lengths: FileKeys = {
            f"base_model.model.{root}{geometry.peft_path(layer, site)}.{MAGNITUDE}": (
                f"{site}.magnitude",
                index,
            )
            for index, layer in enumerate(chosen_layers(self.layers, geometry))
            for site in self.targets
        }
        return super().file_keys(geometry, root) | lengths


def _change(folder: PeftFolder, path: str) -> Tensor:
    """What a folder adds to the weight of one linear, `[out, in]`."""
    own = {name: t for name, t in folder.tensors.items() if name.startswith(f"{path}.lora_")}
    return read_products(replace(folder, tensors=own))[path].delta


def _delta(product: Delta, op: ScaleAndShift, index: int, y: Tensor, x: Tensor) -> Tensor:
    changed = product(y, x)
    return op.add(changed, changed, index)
