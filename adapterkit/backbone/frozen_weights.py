"""The frozen weights of the layers, as adapter methods read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .geometry import Geometry


def linear_parameters(linear: nn.Linear, name: str) -> dict[str, Tensor]:
    """Weight `[out, in]` of a frozen linear, and bias `[out]` if it has one, float32.

    Args:
        linear: The linear.
        name: How the message calls it.

    Raises:
        ValueError: Its weight is quantised, or lies elsewhere than on its device.
    """
    reason = None
    if not linear.weight.is_floating_point():
        reason = "are quantised; load the backbone without quantization"
    elif linear.weight.is_meta:
        reason = "lie elsewhere; load the backbone without a device map"
    if reason is not None:
        raise ValueError(f"'{name}': the adapter needs the frozen weights, which {reason}")
    return {
        parameter: tensor.detach().to(torch.float32)
        for parameter, tensor in linear.named_parameters()
    }


class FrozenWeights:
    """Weights and biases of the linear sites of one backbone.

    Args:
        layers: Its layers.
        geometry: Its measures.
    """

    def __init__(self, layers: Sequence[nn.Module], geometry: Geometry) -> None:
        self._layers = layers
        self.geometry = geometry

    def weight(self, layer: int, site: str) -> Tensor:
        """The frozen weight of a linear site, `[out, in]` float32 on the backbone's device.

        Args:
            layer: The layer.
            site: Canonical name of the site.

        Raises:
            ValueError: It is quantised, or lies elsewhere than on the device.
        """
        return self._parameters(layer, site)["weight"]

    def bias(self, layer: int, site: str) -> Tensor | None:
        """The frozen bias of a linear site, `[out]` float32; None if it has none.

        Args:
            layer: As in `weight`.
            site: As in `weight`.

        Raises:
            ValueError: As in `weight`.
        """
        return self._parameters(layer, site).get("bias")

    def _parameters(self, layer: int, site: str) -> dict[str, Tensor]:
        place = self.geometry.sites[site]
        linear: Any = self._layers[layer].get_submodule(place.path)
        found = linear_parameters(linear, f"{self.geometry.layers_path}.{layer}.{place.path}")
        if place.columns is None:
            return found
        return {name: tensor[slice(*place.columns)] for name, tensor in found.items()}
