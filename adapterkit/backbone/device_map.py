"""Where the weights of each layer lie: on the device that computes, on another one, or on disk.

A device map has the form of Accelerate and transformers: names of modules to a GPU's number,
`cuda:1`, `cpu` or `disk`. The longest name that begins a module's own decides, and `""` is all of
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BackboneError, did_you_mean
from ..yaml12 import read_yaml
from .families.base import Family
from .load_options import AUTO_MAP, DeviceMap

DISK = "disk"


def places_of_layers(
    device_map: DeviceMap, skeleton: nn.Module, family: Family, device: str, dtype: torch.dtype
) -> dict[str, str]:
    """Path of each layer whose weights lie elsewhere, to their place.

    Args:
        device_map: A map, a file with one (JSON or YAML), or `auto`.
        skeleton: The model, on the meta device.
        family: Its family.
        device: Where batches are computed.
        dtype: Of the weights.

    Raises:
        BackboneError: The map is not valid, it divides a layer, or it places something else than
            layers elsewhere.
    """
    layers = paths_of_layers(skeleton, family)
    names = dict(skeleton.named_modules())
    if device_map == AUTO_MAP:
        placed = _by_free_memory(skeleton, layers.values(), device, dtype)
        return {path: place for path in layers if (place := _place(path, placed)) != device}
    given = _read(device_map) if isinstance(device_map, str) else device_map
    placed = {name: _checked_place(name, value) for name, value in given.items()}
    for name in placed:
        if name not in names:
            raise BackboneError(
                f"device_map: {name!r:.80} is no module of this backbone; "
                f"{did_you_mean(name, layers)}"
            )
        if any(name.startswith(f"{path}.") for path in layers):
            raise BackboneError(
                f"device_map: {name!r:.80} is a part of a layer, and a layer lies in one place"
            )
    for name, _ in skeleton.named_parameters():
        own = next((path for path in layers if name.startswith(f"{path}.")), None)
        place = _place(own or name, placed)
        if own is None and place != device:
            raise BackboneError(
                f"device_map: '{name}' is on {place}, but only layers, such as "
                f"'{next(iter(layers))}', may lie elsewhere than on {device}, where batches are "
                "computed"
            )
    return {path: place for path in layers if (place := _place(path, placed)) != device}


def paths_of_layers(skeleton: nn.Module, family: Family) -> dict[str, nn.Module]:
    """Path of each layer to the layer; of one that is computed several times only one.

    Args:
        skeleton: The model, on the meta device.
        family: Its family.
    """
    names = {module: name for name, module in skeleton.named_modules()}
    return {names[layer]: layer for layer in family.layers(skeleton)}


def _by_free_memory(
    skeleton: nn.Module, layers: Any, device: str, dtype: torch.dtype
) -> dict[str, str]:
    """The map that Accelerate makes for the memory that is free: GPUs first, then CPU and disk."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_max_memory

    free = get_max_memory()
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    if device == "cpu" or shared:  # the other GPUs belong to other processes
        own = ("cpu", torch.device(device).index)
        free = {place: size for place, size in free.items() if place in own}
    whole = [type(layer).__name__ for layer in layers]
    found = infer_auto_device_map(
        skeleton, max_memory=free, no_split_module_classes=whole, dtype=dtype
    )
    return {name: _checked_place(name, value) for name, value in found.items()}


def _place(name: str, placed: Mapping[str, str]) -> str:
    """The place of a module by the longest name in the map that begins its own."""
    for beginning in _beginnings(name):
        if beginning in placed:
            return placed[beginning]
    raise BackboneError(f"device_map: it has no place for '{name}'; \"\" stands for all the rest")


def _beginnings(name: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a` and the empty name."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""


def _checked_place(name: str, value: object) -> str:
    place = f"cuda:{value}" if isinstance(value, int) else str(value)
    place = "cuda:0" if place == "cuda" else place
    kind, _, number = place.partition(":")
    if place not in ("cpu", DISK) and not (kind == "cuda" and number.isdecimal()):
        raise BackboneError(
            f"device_map: '{name}' is on {value!r:.80}; expected cpu, disk or the number of a GPU"
        )
    if kind == "cuda" and int(number) >= torch.cuda.device_count():
        raise BackboneError(f"device_map: '{name}' is on {place}, and torch sees no such GPU")
    return place


def _read(path: str) -> dict[str, Any]:
    try:
        content = read_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BackboneError(
            f"device_map: {path}: cannot be read ({error.strerror}); expected '{AUTO_MAP}' or a "
            "file of modules and devices"
        ) from None
    except ValueError as error:
        raise BackboneError(f"device_map: {path}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise BackboneError(f"device_map: {path}: expected names of modules and their devices")
    return content
