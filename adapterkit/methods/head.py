"""No adapter at all: the task's head on the frozen backbone's states."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from ..backbone.families import Geometry
from .base import Contribution, Method, Share, Tensors


@dataclass(frozen=True)
class Head(Method):
    """Trains the head alone, a linear probe (Alain and Bengio 2016): what adapters must beat.

    Every layer is left as it is, so each training text goes through the backbone once and its
    states are kept (`training.cache_mb`).
    """

    type: ClassVar[str] = "head"
    peft_type: ClassVar[str] = "HEAD"
    learning_rate: ClassVar[float] = 1e-2
    head_learning_rate: ClassVar[float] = 1e-2
    in_one_launch: ClassVar[bool] = True

    @property
    def group(self) -> Hashable:
        return ()

    def shapes(self, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        return {}

    def fresh(self, geometry: Geometry, generator: torch.Generator) -> Tensors:
        return {}

    @classmethod
    def contribute(cls, members: Sequence[tuple[Self, Tensors]], share: Share) -> Contribution:
        return Contribution()

    def config(self, geometry: Geometry) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], keys: Iterable[str], geometry: Geometry
    ) -> Self:
        return cls()
