"""What every adapter method is: a recipe section, a file format and a behaviour in one dataclass.

A new method is one new file in `methods/` with one frozen dataclass that extends `Method`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..backbone.edits import Delta
from ..backbone.families import Geometry
from ..ops.dropout import Dropout
from ..ops.low_rank import Segments
from ..registry import discover

Tensors = dict[str, Tensor]


FileKeys = dict[str, tuple[str, int | None]]
"""Name in the file to (name in memory, layer); the layer is None for a tensor kept whole."""


@dataclass(frozen=True)
class Contribution:
    """What the adapters of one group do to a batch.

    Attributes:
        deltas: (layer, site) to what is added to the group's tokens there.
        prefixes: For each adapter, keys and values before its texts, `[L, 2, P, h]`.
    """

    deltas: Mapping[tuple[int, str], Delta] = field(default_factory=dict)
    prefixes: Sequence[Tensor] | None = None


@dataclass(frozen=True)
class Share:
    """One group's part of a batch.

    Attributes:
        runs: Tokens of each of the group's adapters, one run after another.
        geometry: The backbone's.
        noise: Where their dropout is drawn from; None outside training.
    """

    runs: Segments
    geometry: Geometry
    noise: Dropout | None = None

    def dropped(self, x: Tensor, p: float) -> Tensor:
        """The group's tokens `[t, d]` after dropout, outside training unchanged."""
        return x if self.noise is None else self.noise.drop_tokens(x, p)


class Method(ABC):
    """One adapter method with one adapter's settings; a frozen dataclass.

    In memory an adapter's tensors lie stacked over layers, so that a batch gathers each kind of
    tensor once and not once a layer.
    """

    type: ClassVar[str]
    """Name in recipes and files."""

    peft_type: ClassVar[str]
    """`peft_type` in `adapter_config.json`; PEFT's own name where PEFT has the method."""

    learning_rate: ClassVar[float]
    """Peak learning rate that suits the method, where a recipe leaves it open."""

    head_learning_rate: ClassVar[float] = 5e-3
    """Likewise for the fresh head beside it."""

    in_one_launch: ClassVar[bool] = False
    """Whether its deltas are those of `LowRank` and nothing else: on a GPU they are then computed
    over a whole batch at once, and it as one CUDA graph."""

    head_prefix: ClassVar[str] = ""
    """Before a head tensor's name in the weights file."""

    @property
    def num_virtual_tokens(self) -> int:
        """Positions taken by tokens before the text: the text's first position id."""
        return 0

    @property
    @abstractmethod
    def group(self) -> Hashable:
        """Adapters of one class with equal groups are computed as one block."""

    @abstractmethod
    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a finished adapter's tensors.

        Raises:
            ValueError: The settings do not fit the backbone.
        """

    @abstractmethod
    def fresh(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """Tensors to train from scratch, float32; they may be more than `shapes` names."""

    def resume(self, tensors: Tensors, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """Tensors to go on training from a finished adapter's."""
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def fold(self, tensors: Tensors) -> tuple[Self, Tensors]:
        """Trained tensors to the finished adapter: what only training needed is folded away."""
        return self, tensors

    @classmethod
    @abstractmethod
    def contribute(cls, members: Sequence[tuple[Self, Tensors]], share: Share) -> Contribution:
        """What adapters of one group do to their tokens.

        Args:
            members: Settings and tensors of each adapter, as many as runs.
            share: Their part of the batch.
        """

    @abstractmethod
    def config(self, geometry: Geometry) -> dict[str, Any]:
        """The method's part of `adapter_config.json`."""

    @classmethod
    @abstractmethod
    def from_config(
        cls, config: Mapping[str, Any], keys: Iterable[str], geometry: Geometry
    ) -> Self:
        """The method of a folder that has only `adapter_config.json`.

        Args:
            config: That file.
            keys: Names in the weights file.
            geometry: The backbone it is to act on.

        Raises:
            ValueError: The file asks for something this method does not do.
        """

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        """Two-way names of the tensors in the weights file.

        Args:
            geometry: The backbone.
            root: Path of the backbone inside the task model the file speaks of (`bert.` or none).
        """
        return {name: (name, None) for name in self.shapes(geometry)}


@cache
def methods() -> dict[str, type[Method]]:
    """Every method there is, by name."""
    return discover("adapterkit.methods", Method)


def check_layers(layers: tuple[int, ...] | None) -> None:
    """Refuses layer numbers that are not ascending.

    Raises:
        ValueError: They are not.
    """
    if layers is not None and (not layers or list(layers) != sorted(set(layers))):
        raise ValueError(f"layers: expected ascending layer numbers, got {list(layers)}")


def chosen_layers(layers: tuple[int, ...] | None, geometry: Geometry) -> tuple[int, ...]:
    """The layers an adapter acts on: the given ones, or all.

    Raises:
        ValueError: A layer is not in the backbone.
    """
    for layer in layers or ():
        if not 0 <= layer < geometry.layers:
            last = geometry.layers - 1
            raise ValueError(f"layers: there is no layer {layer}; the backbone has 0 to {last}")
    return tuple(range(geometry.layers)) if layers is None else layers


def layers_and_sites(
    keys: Iterable[str], geometry: Geometry
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The layers and linear sites that the tensor names of a PEFT file speak of."""
    family = geometry.family
    pattern = re.compile(rf"(?:^|\.){re.escape(family.layers)}\.(\d+)\.(.+?)\.lora_[AB]\.weight$")
    by_path = {path: site for site, path in family.linears.items()}
    found = [match.groups() for key in keys if (match := pattern.search(key))]
    layers = sorted({int(layer) for layer, _ in found})
    sites = {by_path[path] for _, path in found if path in by_path}
    return tuple(layers), tuple(site for site in family.linears if site in sites)
