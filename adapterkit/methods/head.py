"""A linear probe: only the task's head is trained, on the states of the frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import Geometry
from .base import Method, Tensors
from .group import Group, GroupEdits


@dataclass(frozen=True)
class Head(Method):
    """Trains the head alone, a linear probe (Alain and Bengio 2016): the baseline of adapters.

    It edits no layer, so each training text goes through the backbone once and its states are
    cached (`training.cache_mb`).
    """

    type: ClassVar[str] = "head"
    peft_type: ClassVar[str] = "HEAD"
    learning_rate: ClassVar[float] = 1e-2
    head_learning_rate: ClassVar[float] = 1e-2
    table_order: ClassVar[int] = 90
    low_rank_only: ClassVar[bool] = True

    @property
    def sites(self) -> tuple[str, ...]:
        return ()

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        return {}

    def init_tensors(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        return {}

    def weight_changes(
        self, tensors: Tensors, weights: FrozenWeights
    ) -> dict[tuple[int, str], Tensor]:
        return {}

    @classmethod
    def weighted_sum(
        cls, members: Sequence[tuple[Self, Tensors]], weights: Sequence[float], geometry: Geometry
    ) -> tuple[Self, Tensors]:
        return members[0]

    @classmethod
    def edits(cls, members: Sequence[tuple[Self, Tensors]], group: Group) -> GroupEdits:
        return GroupEdits()
