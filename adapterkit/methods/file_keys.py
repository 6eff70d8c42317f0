"""The tensors of a method in a weights file, which has one for each layer: names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FileKeys = dict[str, tuple[str, int | None]]
"""Name of a tensor in the weights file to its name in memory and its index there: files hold one
tensor a layer, memory holds them stacked. The index is None for a tensor that is not stacked."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor to its shape."""


def shapes_in_file(keys: FileKeys, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes of a method's tensors in a weights file, which has one tensor a layer.

    Args:
        keys: `Method.file_keys`.
        shapes: `Method.shapes`.
    """
    return {
        key: shapes[name] if index is None else shapes[name][1:]
        for key, (name, index) in keys.items()
    }


def stack_layers(tensors: Mapping[str, Tensor], keys: FileKeys) -> dict[str, Tensor]:
    """A method's tensors from those of a weights file, stacked over layers, float32.

    They are copies in memory of torch, whose alignment its products expect.

    Args:
        tensors: The tensors of the file.
        keys: `Method.file_keys`.
    """
    found: dict[str, Tensor] = {}
    layers: dict[str, dict[int, Tensor]] = {}
    for key, (name, index) in keys.items():
        if index is None:
            found[name] = tensors[key].to(torch.float32, copy=True)
        else:
            layers.setdefault(name, {})[index] = tensors[key].float()
    stacked = {
        name: torch.stack([parts[n] for n in sorted(parts)]) for name, parts in layers.items()
    }
    return found | stacked
