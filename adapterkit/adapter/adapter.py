"""One tenant's adapter as a value: method, task, tensors and head. It never changes the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import Geometry
from ..backbone.model import Backbone
from ..methods.base import Method, Tensors
from ..tasks.answer_distribution import AnswerDistribution
from ..tasks.base import Task
from ..tasks.fields import Fields
from ..tasks.types import Text
from .inputs import Inputs

MOST_MEMBERS = 32
"""Most members of an ensemble; each costs a forward of its own."""


@dataclass(frozen=True, eq=False)
class MemberWeights:
    """The weights of one member of an ensemble.

    Attributes:
        tensors: The method's tensors.
        head: The task's tensors.
    """

    tensors: Tensors
    head: Tensors

    def __repr__(self) -> str:
        n_parameters = sum(t.numel() for t in (*self.tensors.values(), *self.head.values()))
        return f"MemberWeights({n_parameters:,} parameters)"

    def to(self, device: torch.device | str) -> MemberWeights:
        """A copy on a device."""

        def copied(tensors: Mapping[str, Tensor]) -> Tensors:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return MemberWeights(copied(self.tensors), copied(self.head))


class FolderFormat(ABC):
    """Writes and reads adapter folders."""

    @abstractmethod
    def save(self, adapter: Adapter, folder: str | Path, geometry: Geometry) -> Path:
        """Writes an adapter folder, completely or not at all, and returns it."""

    @abstractmethod
    def load(self, folder: str | Path, backbone: Backbone, *, any_backbone: bool) -> Adapter:
        """Reads an adapter folder, and those of its parents."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth value
class Adapter:
    """Everything that one tenant's answers depend on besides the backbone.

    Attributes:
        name: `tenant/name`, or `name` alone.
        method: The method and its settings.
        task: The task and its settings, with label names.
        tensors: The method's tensors, stacked over layers (`Method.shapes`).
        head: The task's tensors (`Task.head_shapes`).
        backbone: Name of the backbone it was trained on.
        fingerprint: Fingerprint of that backbone's weights; None if a folder of PEFT was read.
        lower_case: Whether that backbone's tokenizer converts text to lower case.
        training: Record of its training: recipe, seed, data fingerprint, history, seconds.
        metrics: Split to metric to value.
        on_top_of: Its parent: the frozen adapter it was trained on top of and is applied after.
        digest: sha256 of its weights file, of an ensemble over the digests of all its files; None
            if it was not read from a folder.
        extra_members: The further members of an ensemble, trained from other seeds. The raw scores
            of all members are averaged (Lakshminarayanan et al. 2017 average probabilities).

    Raises:
        ValueError: It is an ensemble and its task allows none, or its parent is an ensemble.
    """

    folder_format: ClassVar[FolderFormat]
    """The format of `save` and `load`. `folder.py` sets it, since it imports this module."""

    name: str
    method: Method
    task: Task
    tensors: Tensors
    head: Tensors
    backbone: str
    fingerprint: str | None
    lower_case: bool
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    on_top_of: Adapter | None = None
    digest: str | None = None
    extra_members: tuple[MemberWeights, ...] = ()

    def __repr__(self) -> str:
        members = f", {self.n_members} members" if self.extra_members else ""
        return (
            f"Adapter({self.name!r}, {self.task.type} by {self.method.type} on {self.backbone}"
            f"{members}, {self.n_parameters:,} parameters)"
        )

    def __post_init__(self) -> None:
        if self.extra_members and self.task.ensemble_error is not None:
            raise ValueError(f"extra_members: {self.task.ensemble_error}")
        if self.on_top_of is not None and self.on_top_of.extra_members:
            raise ValueError(
                f"on_top_of: '{self.on_top_of.name}' is an ensemble of "
                f"{self.on_top_of.n_members} members; an adapter stands on a single one"
            )

    def save(self, folder: str | Path, backbone: Backbone) -> Path:
        """Writes an adapter folder, completely or not at all.

        Args:
            folder: The new folder.
            backbone: The backbone that it was trained on.

        Returns:
            The folder.

        Raises:
            AdapterError: The folder exists already, or it cannot be written.
        """
        return self.folder_format.save(self, folder, backbone.geometry)

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone, *, any_backbone: bool = False) -> Adapter:
        """Reads an adapter folder of adapterkit or PEFT, and those of its parents.

        Args:
            folder: The folder.
            backbone: The backbone to use it with; names and shapes are checked against it.
            any_backbone: Accept an adapter that was trained on other weights, or does not say on
                which.

        Raises:
            AdapterError: The folder is not sound, or a parent is missing.
        """
        return cls.folder_format.load(folder, backbone, any_backbone=any_backbone)

    @property
    def members(self) -> tuple[Adapter, ...]:
        """The members of the ensemble, each computed by itself: the adapter as the first one, then
        the others. They are the same objects every time."""
        return (self, *self._extra_adapters)

    @cached_property
    def _extra_adapters(self) -> tuple[Adapter, ...]:
        return tuple(
            replace(self, tensors=one.tensors, head=one.head, extra_members=(), digest=None)
            for one in self.extra_members
        )

    @property
    def n_members(self) -> int:
        """Number of members of the ensemble; 1 for a single adapter."""
        return 1 + len(self.extra_members)

    @cached_property
    def stack(self) -> tuple[Adapter, ...]:
        """The adapters that are applied to a text, in order: its parents, then itself."""
        return (*(self.on_top_of.stack if self.on_top_of is not None else ()), self)

    @cached_property
    def kind(self) -> tuple[str, str]:
        """Neighbours of one kind in a batch are computed as one group."""
        return self.method.type, repr(self.method.group_key)

    def bound_tensors(self, weights: FrozenWeights) -> Tensors:
        """The tensors that it computes with over a backbone (`Method.bind`), kept if they are not
        in training.

        Args:
            weights: The backbone's.

        Raises:
            ValueError: It needs frozen weights that cannot be read.
        """
        if any(tensor.requires_grad for tensor in self.tensors.values()):
            return self.method.bind(self.tensors, weights)
        if weights not in self._bound:
            with torch.inference_mode(False), torch.no_grad():  # training may use them as well
                self._bound[weights] = self.method.bind(self.tensors, weights)
        return self._bound[weights]

    @cached_property
    def _bound(self) -> WeakKeyDictionary[FrozenWeights, Tensors]:
        return WeakKeyDictionary()

    def without_record(self) -> Adapter:
        """A copy for answers, which need no record of its training but the columns of its rows
        (see `inputs`) and the distribution of its answers; the record is as large as a small
        adapter."""
        recipe = self.training.get("recipe")
        kept: dict[str, Any] = {}
        if isinstance(recipe, Mapping):
            kept["recipe"] = {"data": recipe.get("data", {})}
        if "answers" in self.training:
            kept["answers"] = self.training["answers"]
        return replace(self, training=kept)

    @cached_property
    def trained_answers(self) -> AnswerDistribution | None:
        """The distribution of its answers after training; None if its record does not have it."""
        content = self.training.get("answers")
        return None if content is None else AnswerDistribution.from_plain(content)

    @cached_property
    def inputs(self) -> Inputs:
        """What a request must and may hold."""
        return Inputs.of(self.task, self.training)

    def fields(self, request: Text, where: str) -> Fields:
        """Checks a request and returns its values by role, as `Task.fields` does.

        Raises:
            DataError: A value is missing, empty or of another kind, or was not in the training
                rows.
        """
        fields = self.task.fields(request, where)
        self.inputs.check(fields, self.task, where, self.name)
        return fields

    @property
    def num_virtual_tokens(self) -> int:
        """Number of prefix tokens before a text, those of its parents included."""
        return sum(part.method.num_virtual_tokens for part in self.stack)

    @property
    def position_offset(self) -> int:
        """Position id of a text's first token, less what it is without adapters."""
        return sum(part.method.position_offset for part in self.stack)

    @property
    def n_parameters(self) -> int:
        """Number of parameters of method and head, of all members."""
        return sum(t.numel() for t in self._parameters())

    @property
    def n_trained_parameters(self) -> int:
        """As `n_parameters`, without what the method keeps as it is in training."""
        kept = sum(t.numel() for n, t in self.tensors.items() if not self.method.is_trained(n))
        return self.n_parameters - self.n_members * kept

    @property
    def n_bytes(self) -> int:
        """Bytes of the parameters of method and head, of all members."""
        return sum(t.nbytes for t in self._parameters())

    def _parameters(self) -> Iterator[Tensor]:
        for member in (MemberWeights(self.tensors, self.head), *self.extra_members):
            yield from member.tensors.values()
            yield from member.head.values()

    def to(self, device: torch.device | str) -> Adapter:
        """A copy whose tensors, and those of its parents, are on a device."""
        own = MemberWeights(self.tensors, self.head).to(device)
        return replace(
            self,
            tensors=own.tensors,
            head=own.head,
            on_top_of=None if self.on_top_of is None else self.on_top_of.to(device),
            extra_members=tuple(member.to(device) for member in self.extra_members),
        )
