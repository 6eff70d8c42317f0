"""LoRA with trained biases, as PEFT's option `bias` adds them to many of its methods."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import ENTRY, LINEAR_SITES, NORM_SITES, OPTIONAL_SITES, Geometry
from ..ops.scale_and_shift import ScaleAndShift
from .base import Method, PeftReading, Tensors
from .file_keys import FileKeys
from .group import Group, GroupEdits
from .lora import LoRA
from .peft_folder import PeftFolder, Place
from .peft_lora import lora_scale
from .peft_products import PRODUCT_KINDS, read_modules
from .peft_settings import OFF
from .places import check_sites, chosen_layers, layers_at, layers_setting

BIAS_SITES = (*LINEAR_SITES, *OPTIONAL_SITES, *NORM_SITES, ENTRY)

PRODUCT_BIAS = "lora_B.bias"
"""Last part of PEFT's name for the bias of the second matrix of a product."""


@dataclass(frozen=True)
class BiasedLoRA(LoRA):
    """`y = W x + b + scale * B (A x) + c` at the chosen linears, and `+ c` at the chosen biases.

    An adapter holds the differences c. PEFT's folders, which hold the sums b + c, are converted
    when they are read.

    Attributes:
        biases: What gets a trained bias: query, key, value, attention_output, ffn_up, ffn_down,
            attention_layer_norm, ffn_layer_norm; qkv where one linear computes query, key and
            value; and entry, the states that enter the first layer.
    """

    type: ClassVar[str] = "biased_lora"
    peft_type: ClassVar[str] = "BIASED_LORA"
    reads_peft_types: ClassVar[tuple[str, ...]] = ()
    low_rank_only: ClassVar[bool] = False
    head_prefix: ClassVar[str] = ""
    table_order: ClassVar[int] = 14
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"r": 3, "targets": ("key", "ffn_down"), "biases": ("ffn_down", "ffn_layer_norm", ENTRY)},
        {"r": 4, "layers": (0, 2), "init_lora_weights": "olora", "biases": ("query", "ffn_up")},
    )

    biases: tuple[str, ...] = (
        "query",
        "value",
        "attention_output",
        "attention_layer_norm",
        "ffn_up",
        "ffn_down",
        "ffn_layer_norm",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sites("biases", self.biases, BIAS_SITES)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.targets, *self.biases)))

    @property
    def group_key(self) -> Hashable:
        return (super().group_key, self.biases)

    def _bias_layers(self, site: str, geometry: Geometry) -> tuple[int, ...]:
        """The layers that get a bias at a site."""
        return layers_at(site, self.layers, geometry)

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        geometry.check_norms(self.biases)
        geometry.check_linears([s for s in self.biases if s not in (*NORM_SITES, ENTRY)])
        return super().shapes(geometry) | {
            f"{site}.bias": (len(self._bias_layers(site, geometry)), geometry.width_out(site))
            for site in self.biases
        }

    def _joined(self, tensors: Tensors) -> Tensors:
        joined = super()._joined(tensors)
        if joined is tensors:
            return tensors
        return joined | {f"{site}.bias": tensors[f"{site}.bias"] for site in self.biases}

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        first = members[0][0]
        deltas = dict(super().edits(members, group).deltas)
        for site in first.biases:
            op = ScaleAndShift(group.segments, shifts=[t[f"{site}.bias"] for _, t in members])
            for index, layer in enumerate(first._bias_layers(site, group.geometry)):
                product = deltas.get((layer, site))
                deltas[layer, site] = partial(_delta, product, op, index)
        return GroupEdits(deltas)

    def weight_changes(
        self, tensors: Tensors, weights: FrozenWeights
    ) -> dict[tuple[int, str], Tensor]:
        return Method.weight_changes(self, tensors, weights)

    @classmethod
    def weighted_sum(
        cls, members: Sequence[tuple[Self, Tensors]], weights: Sequence[float], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        products = [(method._product, own) for method, own in members]
        total = PeftReading(*LoRA.weighted_sum(products, weights, geometry))
        changes: dict[tuple[int, str], Tensor] = {}
        for (method, own), weight in zip(members, weights, strict=True):
            for site in method.biases:
                for index, layer in enumerate(method._bias_layers(site, geometry)):
                    term = weight * own[f"{site}.bias"][index]
                    changes[layer, site] = changes.get((layer, site), 0) + term
        joined = cls._with_biases(total, changes, geometry)
        return cast(Self, joined.method), joined.tensors

    @property
    def _product(self) -> LoRA:
        """The same without biases."""
        return LoRA(**{field.name: getattr(self, field.name) for field in fields(LoRA)})

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return Method.config(self, geometry)

    @classmethod
    def wrote(cls, config: Mapping[str, Any]) -> bool:
        """Whether it is a folder of this method, or one of PEFT with biases beside the products."""
        if config.get("peft_type") == cls.peft_type:
            return True
        has_biases = config.get("bias") not in OFF or config.get("lora_bias") not in OFF
        return has_biases and config.get("peft_type") in PRODUCT_KINDS

    @classmethod
    def from_peft(cls, folder: PeftFolder) -> PeftReading:
        """As in `Method`, for biases beside any product (`PRODUCT_KINDS`).

        Biases that are what the backbone has are not stored.
        """
        geometry = folder.backbone.geometry
        if folder.config.get("peft_type") == cls.peft_type:
            method = cls.from_config(folder.config, folder.tensors, geometry)
            keys = method.file_keys(geometry, folder.root)
            return PeftReading(method, folder.read(keys, method.shapes(geometry)))
        products = replace(
            folder,
            config={**folder.config, "bias": "none", "lora_bias": False},
            tensors={n: t for n, t in folder.tensors.items() if not n.endswith(".bias")},
        )
        reading = LoRA.from_peft(products)
        changes: dict[tuple[int, str], Tensor] = {}
        for place, change in (*_trained_biases(folder), *_product_biases(folder, products)):
            changes[place] = changes.get(place, 0) + change
        return cls._with_biases(reading, changes, geometry) if changes else reading

    @classmethod
    def _with_biases(
        cls, reading: PeftReading, changes: Mapping[tuple[int, str], Tensor], geometry: Geometry
    ) -> PeftReading:
        """A reading of the products with changes of biases, in the layers of both."""
        products = cast(LoRA, reading.method)
        own = chosen_layers(products.layers, geometry)
        layers = tuple(sorted({*own, *(layer for layer, site in changes if site != ENTRY)}))
        sites = {site for _, site in changes}
        biases = tuple(site for site in BIAS_SITES if site in sites)
        settings = {**vars(products), "layers": layers_setting(layers, geometry)}
        method = cls(**settings, biases=biases)
        tensors = {name: torch.zeros(shape) for name, shape in method.shapes(geometry).items()}
        rows = [layers.index(layer) for layer in own]
        for name, tensor in reading.tensors.items():
            tensors[name][rows] = tensor
        for (layer, site), change in changes.items():
            index = method._bias_layers(site, geometry).index(layer)
            tensors[f"{site}.bias"][index] = change
        return PeftReading(method, tensors, reading.changes)

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        biases: FileKeys = {f"{site}.bias": (f"{site}.bias", None) for site in self.biases}
        return super().file_keys(geometry, root) | biases


BiasChange = tuple[tuple[int, str], Tensor]
"""A layer and a site, and what is added there."""


def _changes(places: Sequence[Place], change: Tensor) -> Iterator[BiasChange]:
    """A change of all outputs of a linear or a norm, at each place where it is computed."""
    for layer, site, columns in places:
        yield (layer, site), change if columns is None else change[slice(*columns)]


def _trained_biases(folder: PeftFolder) -> Iterator[BiasChange]:
    """How the biases of a folder differ from those of the backbone.

    Raises:
        ValueError: One that differs is neither that of a linear of the layers nor of a layer norm
            whose output is edited.
    """
    for name, trained in folder.tensors.items():
        path, _, part = name.rpartition(".")
        if part != "bias" or name.endswith(f".{PRODUCT_BIAS}"):
            continue
        is_norm = folder.has_norm(path)
        frozen = folder.frozen_norm(path) if is_norm else folder.frozen_linear(path)
        if "bias" not in frozen or frozen["bias"].shape != trained.shape:
            raise ValueError(f"'{name}' is trained, and the backbone has no such bias")
        change = trained.float() - frozen["bias"]
        if not bool(change.any()):
            continue  # PEFT saves all biases, those that no gradient reached as well
        places = _norm_places(folder, path) if is_norm else folder.places(path)
        if not places:
            raise ValueError(f"'{name}' is trained, and no adapter here adds to it")
        yield from _changes(places, change)


def _norm_places(folder: PeftFolder, path: str) -> list[Place]:
    """Where the output of a layer norm is edited."""
    if path.removeprefix(folder.root) == folder.backbone.geometry.entry_norm:
        return [Place(0, ENTRY, None)]
    return [Place(layer, site, None) for layer, site in folder.norm_places(path)]


def _product_biases(folder: PeftFolder, products: PeftFolder) -> Iterator[BiasChange]:
    """What the biases of the products' second matrices add to the linears of the layers.

    Args:
        folder: The folder.
        products: The same without biases.

    Raises:
        ValueError: One has no product, or its linear is outside the layers; or they are switched
            off.
    """
    names = [name for name in folder.tensors if name.endswith(f".{PRODUCT_BIAS}")]
    modules = read_modules(products) if names else {}
    for name in names:
        path = name.removesuffix(f".{PRODUCT_BIAS}")
        places = folder.places(path)
        if path not in modules or not places or folder.config.get("lora_bias") in OFF:
            raise ValueError(f"tensor '{name}' does not belong here")
        yield from _changes(places, lora_scale(modules[path]) * folder.tensors[name].float())


def _delta(product: Delta | None, op: ScaleAndShift, index: int, y: Tensor, x: Tensor) -> Tensor:
    changed = y if product is None else product(y, x)
    return op.add(changed, changed, index)
