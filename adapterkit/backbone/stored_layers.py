"""Layers whose frozen weights lie elsewhere and come to the computing device when they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .device_map import DISK
from .weight_files import StoredTensor, read_tensors


class StoredLayer:
    """Replaces the forward of one layer.

    The weights are there while the layer runs. On disk they stay in their safetensors file, mapped
    into memory: the system reads a page when it is used and can drop it at any time.

    Args:
        layer: The layer, on the meta device.
        tensors: Its weights by their names inside the layer.
        place: A device of torch, or `disk`.
        device: Where batches are computed.
        dtype: Of the weights.
    """

    def __init__(
        self,
        layer: nn.Module,
        tensors: Mapping[str, StoredTensor],
        place: str,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self._inner = _Inner(layer, layer.forward)
        self._tensors = tensors
        self._device, self._dtype = device, dtype
        self._kept = None if place == DISK else self._read(place)
        self._lock = Lock()  # while one thread runs the layer, its weights are the module's

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = self._read("cpu") if self._kept is None else self._kept
        weights = {
            f"layer.{name}": tensor.to(self._device, non_blocking=True)
            for name, tensor in found.items()
        }
        with self._lock:
            return functional_call(self._inner, weights, args, kwargs)

    def _read(self, place: str) -> dict[str, Tensor]:
        return {
            name: tensor.to(place, self._dtype)
            for name, tensor in read_tensors(self._tensors).items()
        }


class _Inner(nn.Module):
    """A layer with the forward that it had before it was replaced."""

    def __init__(self, layer: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = layer
        self._layer_forward = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer_forward(*args, **kwargs)


def store_layers(
    model: nn.Module,
    places: Mapping[str, str],
    tensors: Mapping[str, StoredTensor],
    device: str,
    dtype: torch.dtype,
) -> None:
    """Lets some layers of a model take their weights from where they lie.

    Args:
        model: The model; these layers are on the meta device.
        places: Path of each of these layers to its place.
        tensors: The stored weights by their names in the model.
        device: Where batches are computed.
        dtype: Of the weights.
    """
    for path, place in places.items():
        layer, root = model.get_submodule(path), f"{path}."
        own = {
            name.removeprefix(root): stored
            for name, stored in tensors.items()
            if name.startswith(root)
        }
        setattr(layer, "forward", StoredLayer(layer, own, place, device, dtype))  # noqa: B010
