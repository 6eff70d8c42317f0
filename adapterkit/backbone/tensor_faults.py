"""What contradicts between the weights of a checkpoint and its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from .families.base import BUFFERS, Family
from .weight_files import StoredTensor, StoredWeights, modern_name

DTYPES = ("F64", "F32", "BF16", "F16")
"""Dtypes of weights; integers and 8-bit floats need scales, which no family reads."""

SHOWN = 3
"""Tensors of a kind of fault that a message names."""


def matching_tensors(
    weights: StoredWeights, expected: Mapping[str, Tensor]
) -> dict[str, StoredTensor]:
    """The stored tensors that a model has, by the model's names.

    Args:
        weights: The checkpoint's.
        expected: Every tensor of the model.
    """
    modern = {modern_name(name): tensor for name, tensor in weights.backbone.items()}
    return {name: tensor for name, tensor in modern.items() if name in expected}


def tensor_faults(
    weights: StoredWeights, expected: Mapping[str, Tensor], family: Family
) -> list[str]:
    """Everything that is wrong with a checkpoint's weights, one sentence for each kind of fault.

    A tensor that is missing would be random, one that the model lacks would have no effect. Heads
    beside the backbone are ignored, and so is the pooler if no part of it is there.

    Args:
        weights: The checkpoint's.
        expected: Every tensor of the model that `config.json` describes, on any device.
        family: Its family.
    """
    found = matching_tensors(weights, expected)
    has_pooler = any(map(family.is_pooler_weight, weights.backbone))
    missing = [
        name
        for name in expected
        if name not in found and (has_pooler or not family.is_pooler_weight(name))
    ]
    parts = {name.partition(".")[0] for name in expected}
    unexpected = [
        f"{name!r:.100}"
        for name in weights.backbone
        if modern_name(name) not in expected
        and family.is_backbone_weight(name)
        and not name.endswith(BUFFERS)
        and name not in family.unused_weights
        and (weights.root or name.partition(".")[0] in parts)
    ]
    shapes = [
        f"{name} is {list(found[name].shape)}, by config.json {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tuple(tensor.shape)
    ]
    dtypes = [f"{name} is {one.dtype}" for name, one in found.items() if one.dtype not in DTYPES]
    faults = [
        _sentence("missing", missing),
        _sentence("unexpected", unexpected),
        _sentence("other shapes", shapes),
        _sentence(f"dtypes other than {', '.join(DTYPES)}", dtypes),
    ]
    if not found and weights.tensors:
        example = next(iter(weights.tensors.values())).name
        faults.append(f"no tensor has a known name; one is called {example!r:.100}")
    return [fault for fault in faults if fault]


def _sentence(kind: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{kind}: {', '.join(items[:SHOWN])}{more}"
