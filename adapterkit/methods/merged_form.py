"""What an adapter is without its method: changes of frozen parameters, and a part of a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

from torch import Tensor

from ..backbone.frozen_weights import FrozenWeights
from ..backbone.geometry import Geometry


class ParameterChange(NamedTuple):
    """What an adapter does to a frozen parameter p: `factor * p + shift`.

    Attributes:
        shift: A number, or a tensor of the parameter's shape.
        factor: A number, or a tensor that multiplies the parameter, such as `[out, 1]`.
    """

    shift: Tensor | float = 0.0
    factor: Tensor | float = 1.0


class MergedForm:
    """The exact forms that the adapters of a method have beside the method itself, for merged
    checkpoints and composed adapters. By default they have none."""

    type: ClassVar[str]

    @property
    def multiplies(self) -> bool:
        """Whether it multiplies what frozen weights and other adapters compute, so that what it
        changes does not add up with what others change."""
        return False

    def weight_changes(
        self, tensors: dict[str, Tensor], weights: FrozenWeights
    ) -> dict[tuple[int, str], Tensor]:
        """What an adapter adds to the frozen weights, if that is all it does.

        Args:
            tensors: Its tensors.
            weights: The backbone's.

        Returns:
            (layer, site) to `[out, in]`.

        Raises:
            ValueError: It does more, as methods do by default.
        """
        raise ValueError(f"a {self.type} adapter does more than change weights")

    def parameter_changes(
        self, tensors: dict[str, Tensor], weights: FrozenWeights
    ) -> dict[tuple[int, str], dict[str, ParameterChange]]:
        """What an adapter does to frozen parameters, if that is all it does: by default it adds
        `weight_changes`.

        Args:
            tensors: Its tensors.
            weights: The backbone's.

        Returns:
            (layer, site of a linear or a norm) to the changes of `weight` and `bias`. The site
            `entry` of layer 0 is the norm whose output enters the layers.

        Raises:
            ValueError: It does more.
        """
        changes = self.weight_changes(tensors, weights)
        return {place: {"weight": ParameterChange(change)} for place, change in changes.items()}

    @classmethod
    def weighted_sum(
        cls,
        members: Sequence[tuple[Self, dict[str, Tensor]]],
        weights: Sequence[float],
        geometry: Geometry,
    ) -> tuple[Self, dict[str, Tensor]]:
        """The adapter that adds at every site the weighted sum of what some adapters add there.

        Args:
            members: Settings and tensors of each adapter.
            weights: A factor for each.
            geometry: The backbone's.

        Returns:
            Its method and tensors.

        Raises:
            ValueError: No adapter of this method does exactly that, by default.
        """
        raise ValueError(
            f"the method {cls.type} has no weighted sum: what its adapters add is not linear in "
            "their tensors"
        )
