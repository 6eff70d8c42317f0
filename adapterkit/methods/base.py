"""The base class of adapter methods: settings, file format and computation in one dataclass.

A new method is one new file in this package, or in a package of your own that names it in the
entry-point group `adapterkit.methods`, with one frozen dataclass that extends `Method`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor

from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import Geometry
from ..errors import RecipeError, did_you_mean
from ..registry import discover
from ..schema import build, dump
from .file_keys import FileKeys
from .group import Group, GroupEdits
from .merged_form import MergedForm
from .peft_folder import PeftFolder

Tensors = dict[str, Tensor]


class PeftReading(NamedTuple):
    """What a method reads of a folder that PEFT wrote.

    Attributes:
        method: The method with its settings.
        tensors: Its tensors, as `Method.shapes` says.
        changes: Changes of frozen weights outside the layers, by path in the model, `[out, in]`.
    """

    method: Method
    tensors: Tensors
    changes: Mapping[str, Tensor] = {}


class Method(MergedForm, ABC):
    """One adapter method with the settings of one adapter; a frozen dataclass.

    The fields are the keys of the recipe's section `method`; the docstring's `Attributes` explain
    them to users. In memory the tensors of an adapter are stacked over layers, so that a batch
    gathers each kind of tensor once and not once a layer.
    """

    type: ClassVar[str]
    """Name of the method in recipes and files."""

    peft_type: ClassVar[str]
    """`peft_type` in `adapter_config.json`: PEFT's own name if PEFT has the method."""

    parent_type: ClassVar[str | None] = None
    """The method of the saved adapters that a training needs (`parents`); None if it needs none."""

    reads_peft_types: ClassVar[tuple[str, ...]] = ()
    """Every `peft_type` whose folders `from_peft` reads beside its own. The method that `wrote` a
    folder is tried first."""

    learning_rate: ClassVar[float]
    """Peak learning rate if the recipe gives none."""

    head_learning_rate: ClassVar[float] = 5e-3
    """Peak learning rate of a new head if the recipe gives none."""

    table_order: ClassVar[int] = 50
    """Place of the method in lists, such as those of `adapterkit compare`, in ascending order. The
    first method is the default one of benchmarks."""

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Settings that together use every part of the method; its contract test runs with each. They
    must suit a small backbone of 3 layers, 32 wide."""

    low_rank_only: ClassVar[bool] = False
    """Whether every delta is a `LowRank` product and nothing else. On a GPU such methods are
    computed for all adapters of a batch at once, and the batch as one CUDA graph."""

    exact_gradients: ClassVar[bool] = True
    """Whether gradients are those of the outputs; a method may treat a part of its output as a
    constant."""

    free_settings: ClassVar[tuple[str, ...]] = ("dropout",)
    """Settings that may differ from those of a saved adapter that a training starts from: they
    matter in training alone, or change nothing but the shapes of tensors."""

    head_prefix: ClassVar[str] = ""
    """What the names of the head's tensors start with in the weights file."""

    @property
    def num_virtual_tokens(self) -> int:
        """Number of prefix tokens before a text."""
        return 0

    @property
    def position_offset(self) -> int:
        """Position id of a text's first token, less what it is without an adapter."""
        return self.num_virtual_tokens

    @property
    def parents(self) -> tuple[str, ...]:
        """The saved adapters whose tensors it has, by folder or by name in the store: its setting
        `of`."""
        return ()

    @property
    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """The sites it edits (`LINEAR_SITES`, `HIDDEN_SITES`); none for a method that only adds
        prefix tokens or only trains the head."""

    @property
    def group_key(self) -> Hashable:
        """Adapters of one method with equal keys are computed as one group: by default those with
        equal settings."""
        return self

    @abstractmethod
    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors of a finished adapter.

        Raises:
            ValueError: The settings do not fit the backbone.
        """

    @abstractmethod
    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        """New tensors to train, float32; they may be more than those of `shapes`."""

    def with_parents(
        self, parents: Mapping[str, tuple[Method, Tensors]], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        """The method over its saved adapters, called before a training if it has a `parent_type`.

        Args:
            parents: Method and tensors of each adapter that `parents` names, by that name.
            geometry: The backbone's.

        Returns:
            The method with the settings that follow from them, and the tensors that take the place
            of those of `init_tensors` with the same names; `is_trained` excludes them.

        Raises:
            ValueError: The adapters do not fit; the message begins with the setting.
        """
        return self, {}

    def begin(self, tensors: Tensors, weights: FrozenWeights) -> Tensors:
        """New tensors to train over given frozen weights, by default as they were drawn.

        Args:
            tensors: Those of `init_tensors`.
            weights: The backbone's.

        Raises:
            ValueError: The frozen weights cannot be read.
        """
        return tensors

    def is_trained(self, name: str) -> bool:
        """Whether training changes a tensor of `begin`, by default every one.

        The others follow from settings, frozen weights and parents, so they are in no checkpoint.
        """
        return True

    def bind(self, tensors: Tensors, weights: FrozenWeights) -> Tensors:
        """The tensors that `edits` gets, by default those of the adapter.

        A method whose edits depend on the frozen weights adds here what follows from both. It is
        called once for a finished adapter and at every step for one in training.

        Args:
            tensors: Those of the adapter.
            weights: The backbone's, on its device.

        Raises:
            ValueError: The frozen weights cannot be read.
        """
        return tensors

    def init_from(
        self, tensors: Tensors, geometry: Geometry, generator: torch.Generator
    ) -> Tensors:
        """Tensors to train that start from those of a finished adapter."""
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def finalize(self, tensors: Tensors) -> tuple[Self, Tensors]:
        """The finished adapter: its method, and its tensors without what only training needs."""
        return self, tensors

    @classmethod
    @abstractmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        """What the adapters of one group do to their tokens.

        Args:
            members: Settings of each adapter and its tensors as `bind` returns them, in the order
                of `group.segments`.
            group: Their tokens.

        Returns:
            Deltas at the declared sites only, and prefixes.
        """

    def config(self, geometry: Geometry) -> dict[str, Any]:
        """The method's part of `adapter_config.json`: by default its settings."""
        return {key: value for key, value in dump(self).items() if key != "type"}

    @classmethod
    def wrote(cls, config: Mapping[str, Any]) -> bool:
        """Whether a folder has the settings of this method, by default if it has its `peft_type`.

        A method that extends another one goes before it (`writers_of`).

        Args:
            config: The content of `adapter_config.json`.
        """
        return config.get("peft_type") == cls.peft_type

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], keys: Iterable[str], geometry: Geometry
    ) -> Self:
        """The method of a folder that was not written by adapterkit, by default from its settings.

        Args:
            config: The content of `adapter_config.json`.
            keys: Names of the tensors in the weights file.
            geometry: The backbone's.

        Raises:
            ValueError: The file has settings that this method does not support.
        """
        known = {field.name for field in fields(cast(Any, cls))}
        settings = {key: value for key, value in config.items() if key in known}
        return cast(Self, build(cls, settings, ""))

    @classmethod
    def from_peft(cls, folder: PeftFolder) -> PeftReading:
        """Reads a folder that PEFT wrote, by default with `from_config` and `file_keys`.

        Args:
            folder: The folder, without the head.

        Raises:
            ValueError: A setting or a tensor cannot be expressed by this method.
        """
        geometry = folder.backbone.geometry
        method = cls.from_config(folder.config, folder.tensors, geometry)
        keys = method.file_keys(geometry, folder.root)
        return PeftReading(method, folder.read(keys, method.shapes(geometry)))

    def file_keys(self, geometry: Geometry, root: str) -> FileKeys:
        """Names of the tensors in the weights file, to their names in memory.

        Args:
            geometry: The backbone's.
            root: Path of the backbone inside the task model that the file belongs to, such as
                `bert.`; may be empty.
        """
        return {name: (name, None) for name in self.shapes(geometry)}


@cache
def methods() -> dict[str, type[Method]]:
    """Every method by name, those of plug-ins included, in the order of `Method.table_order`."""
    found = discover("adapterkit.methods", Method)
    return dict(sorted(found.items(), key=lambda item: (item[1].table_order, item[0])))


def default_method() -> str:
    """Name of the first method."""
    return next(iter(methods()))


def writers_of(config: Mapping[str, Any]) -> list[type[Method]]:
    """The methods that say that they wrote a folder (`Method.wrote`), the right one first: one that
    extends another stands before it.

    Args:
        config: The content of `adapter_config.json`.
    """
    found = [method for method in methods().values() if method.wrote(config)]
    return sorted(found, key=lambda method: -len(method.__mro__))


def check_method_name(name: str, known: Collection[str]) -> None:
    """Refuses the name of a method that is not known.

    Args:
        name: The name.
        known: The names that are valid here.

    Raises:
        RecipeError: There is no such method.
    """
    if name not in known:
        raise RecipeError(f"there is no method '{name}'; {did_you_mean(name, known)}")
