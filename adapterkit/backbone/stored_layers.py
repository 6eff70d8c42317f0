"""Layers whose frozen weights lie elsewhere and come to the computing device when they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .device_map import DISK
from .shards import SHARD, Shards
from .weight_files import StoredTensor, read_tensors

Weights = Callable[[], Mapping[str, Tensor]]
"""Finds the weights of a layer by their names inside it."""


class StoredLayer:
    """Replaces the forward of one layer.

    The weights are there while the layer runs. On disk they stay in their safetensors file, mapped
    into memory: the system reads a page when it is used and can drop it at any time.

    Args:
        layer: The layer, on the meta device.
        find_weights: Finds its weights by their names inside the layer.
        device: Where batches are computed.
    """

    def __init__(self, layer: nn.Module, find_weights: Weights, device: str) -> None:
        self._inner = _Inner(layer, layer.forward)
        self._find_weights, self._device = find_weights, device
        self._lock = Lock()  # while one thread runs the layer, its weights are the module's

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        weights = {
            f"layer.{name}": tensor.to(self._device, non_blocking=True)
            for name, tensor in self._find_weights().items()
        }
        with self._lock:
            return functional_call(self._inner, weights, args, kwargs)


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
    shards: Shards | None = None,
) -> None:
    """Lets some layers of a model take their weights from where they lie.

    Args:
        model: The model; these layers are on the meta device.
        places: Path of each of these layers to its place.
        tensors: The stored weights by their names in the model.
        device: Where batches are computed.
        dtype: Of the weights.
        shards: Keeps the layers that are divided among processes, if any are.
    """
    for path, place in places.items():
        layer, root = model.get_submodule(path), f"{path}."
        own = {
            name.removeprefix(root): stored
            for name, stored in tensors.items()
            if name.startswith(root)
        }
        find_weights = _weights(own, place, dtype, shards)
        setattr(layer, "forward", StoredLayer(layer, find_weights, device))  # noqa: B010


def _weights(
    tensors: Mapping[str, StoredTensor], place: str, dtype: torch.dtype, shards: Shards | None
) -> Weights:
    """How the weights of a layer are found: on disk when they are needed, else where they lie."""
    if place == DISK:
        return partial(_read, tensors, "cpu", dtype)
    if place == SHARD and shards is not None:
        return shards.keep(_read(tensors, "cpu", dtype))
    kept = _read(tensors, place, dtype)
    return lambda: kept


def _read(tensors: Mapping[str, StoredTensor], place: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(place, dtype) for name, tensor in read_tensors(tensors).items()}
