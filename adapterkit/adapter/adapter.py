"""One tenant's adapter: method, task, tensors, head and card. Data, never a change of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..methods.base import Method, Tensors
from ..tasks.base import Task

MOST_MEMBERS = 32
"""Members of the largest ensemble: each costs a forward of its own."""


@dataclass(frozen=True)
class MemberWeights:
    """What members of one ensemble do not share.

    Attributes:
        tensors: The method's tensors.
        head: The task's tensors.
    """

    tensors: Tensors
    head: Tensors

    def to(self, device: torch.device | str) -> MemberWeights:
        """The weights on a device."""

        def moved(tensors: Mapping[str, Tensor]) -> Tensors:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return MemberWeights(moved(self.tensors), moved(self.head))


@dataclass(frozen=True)
class Adapter:
    """All that one tenant's answers depend on besides the backbone.

    Attributes:
        name: `tenant/name`, or `name` alone.
        method: The method and its settings.
        task: The task and its settings, label names filled in.
        tensors: The method's tensors, stacked over layers (`Method.shapes`).
        head: The task's tensors (`Task.head_shapes`).
        backbone: Name of the backbone it was trained on.
        fingerprint: Fingerprint of that backbone's weights; None where a foreign folder has none.
        lower_case: Whether that backbone's tokenizer lower-cases.
        training: How it was trained: recipe, seed, data fingerprint, history, seconds.
        metrics: Split to metric to value.
        on_top_of: The frozen adapter it was trained on and is applied after; None for most.
        digest: sha256 of the weights file it came from, of an ensemble that over its files'; None
            where it was never in one.
        extra_members: The further members of an ensemble, trained from other seeds: the raw scores
            of all are averaged (Lakshminarayanan et al. 2017, there the probabilities).

    Raises:
        ValueError: It is an ensemble of a task that can be none, or stands on an ensemble.
    """

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

    def __post_init__(self) -> None:
        if self.extra_members and self.task.ensemble_error is not None:
            raise ValueError(f"others: {self.task.ensemble_error}")
        if self.on_top_of is not None and self.on_top_of.extra_members:
            raise ValueError(
                f"on_top_of: '{self.on_top_of.name}' is an ensemble of "
                f"{self.on_top_of.n_members} members; an adapter stands on a single one"
            )

    @property
    def members(self) -> tuple[Adapter, ...]:
        """All that are asked for one answer, each to be computed by itself: the adapter as its own
        first member, then the others; the same objects every time."""
        return (self, *self._further)

    @cached_property
    def _further(self) -> tuple[Adapter, ...]:
        return tuple(
            replace(self, tensors=own.tensors, head=own.head, extra_members=(), digest=None)
            for own in self.extra_members
        )

    @property
    def n_members(self) -> int:
        """Members of the ensemble; 1 for most."""
        return 1 + len(self.extra_members)

    @cached_property
    def stack(self) -> tuple[Adapter, ...]:
        """All that is applied to a text in turn: from the ground up, itself last."""
        return (*(self.on_top_of.stack if self.on_top_of is not None else ()), self)

    @cached_property
    def kind(self) -> tuple[str, str]:
        """Adapters of one kind are computed as one block where their tokens are neighbours."""
        return self.method.type, repr(self.method.group_key)

    @property
    def num_virtual_tokens(self) -> int:
        """Positions taken before the text by the prefixes of every floor."""
        return sum(floor.method.num_virtual_tokens for floor in self.stack)

    @property
    def n_parameters(self) -> int:
        """Numbers in the method's tensors and the head, of all members."""
        return sum(t.numel() for t in self._held())

    @property
    def n_bytes(self) -> int:
        """Bytes of the method's tensors and the head, of all members."""
        return sum(t.nbytes for t in self._held())

    def _held(self) -> Iterator[Tensor]:
        for own in (MemberWeights(self.tensors, self.head), *self.extra_members):
            yield from own.tensors.values()
            yield from own.head.values()

    def to(self, device: torch.device | str) -> Adapter:
        """The adapter with its tensors on a device."""
        own = MemberWeights(self.tensors, self.head).to(device)
        return replace(
            self,
            tensors=own.tensors,
            head=own.head,
            on_top_of=None if self.on_top_of is None else self.on_top_of.to(device),
            extra_members=tuple(other.to(device) for other in self.extra_members),
        )
