"""PEFT's folder format: `adapter_config.json`, and the names of tensors in the weights file.

It is the format of PEFT 0.13 and later for the methods that PEFT has; the other methods follow its
rules with names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..backbone.embedded import EMBEDDED, EMBEDDED_HUB_NAME
from ..backbone.geometry import Geometry
from ..methods.base import FileKeys, Method, Tensors, methods
from ..names import check_name
from ..tasks.base import Task, tasks
from .adapter import Adapter, MemberWeights
from .weights import Shapes

CONFIG = "adapter_config.json"

BARE = (None, "FEATURE_EXTRACTION")
"""PEFT's task types whose model is the backbone itself and not a task model around it."""

READ_HEADS = ("classifier.", "qa_outputs.")
"""Beginnings of the names of those heads that a task can read."""

HEADS = (*READ_HEADS, "score.", "cls.", "lm_head.")
"""Beginnings of the names of the heads of transformers' task models."""


def peft_config(adapter: Adapter, geometry: Geometry) -> dict[str, Any]:
    """The content of `adapter_config.json`."""
    model = EMBEDDED_HUB_NAME if adapter.backbone == EMBEDDED else adapter.backbone
    return {
        "peft_type": adapter.method.peft_type,
        "task_type": adapter.task.peft_task_type,
        "base_model_name_or_path": model,
        "inference_mode": True,
        "modules_to_save": sorted({name.rpartition(".")[0] for name in adapter.head}),
        **adapter.method.config(geometry),
    }


def fields_from_peft(
    folder: Path, config: Mapping[str, Any], tensors: Tensors, geometry: Geometry
) -> dict[str, Any]:
    """The fields of `Adapter` for a folder without a card; what is not in it has PEFT's default.

    Args:
        folder: The adapter folder.
        config: The content of its `adapter_config.json`.
        tensors: The tensors of its weights file.
        geometry: The backbone's.

    Raises:
        ValueError: Method or task are not known, or have settings that are not supported.
    """
    by_task: dict[str | None, type[Task]] = {
        kind.peft_task_type: kind for kind in tasks().values() if kind.foreign
    }
    method, task_type = method_from_peft(config, tensors, geometry), config.get("task_type")
    if task_type not in by_task:
        raise ValueError(f"{CONFIG}: task_type {task_type} is not known here")
    start = method.head_prefix
    head = {
        key.removeprefix(start): tuple(tensor.shape)
        for key, tensor in tensors.items()
        if key.removeprefix(start).startswith(READ_HEADS)
    }
    return {
        "name": check_name(folder.resolve().name),
        "method": method,
        "task": by_task[task_type].from_head(head),
        "backbone": str(config.get("base_model_name_or_path")),
        "fingerprint": None,
        "lower_case": False,
    }


def method_from_peft(config: Mapping[str, Any], tensors: Tensors, geometry: Geometry) -> Method:
    """The method of a folder without a card.

    Args:
        config: The content of its `adapter_config.json`.
        tensors: The tensors of its weights file.
        geometry: The backbone's.

    Raises:
        ValueError: It is not known, or has settings that are not supported.
    """
    by_peft: dict[str, type[Method]] = {kind.peft_type: kind for kind in methods().values()}
    peft_type = config.get("peft_type")
    if peft_type not in by_peft:
        raise ValueError(f"{CONFIG}: peft_type {peft_type} is not known here")
    return by_peft[peft_type].from_config(config, tensors, geometry)


def without_heads(tensors: Tensors) -> Tensors:
    """The tensors of a weights file that belong to no head."""
    starts = tuple(
        prefix + head for prefix in ("base_model.model.", "base_model.") for head in HEADS
    )
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(starts)}


def backbone_path(tensors: Tensors, geometry: Geometry) -> str:
    """Path of the backbone inside the model that a weights file belongs to: `bert.` or empty."""
    prefix = f"{geometry.prefix}."
    return prefix if any(key.startswith(f"base_model.model.{prefix}") for key in tensors) else ""


def file_shapes(adapter: Adapter, geometry: Geometry, root: str) -> Shapes:
    """Names and shapes of the tensors in the weights file of an adapter.

    Args:
        adapter: The adapter; its tensors are not read.
        geometry: The backbone's.
        root: The backbone's path (`backbone_path`).
    """
    shapes = method_shapes(adapter.method, geometry, root)
    for name, shape in adapter.task.head_shapes(geometry.hidden).items():
        shapes[adapter.method.head_prefix + name] = shape
    return shapes


def method_shapes(method: Method, geometry: Geometry, root: str) -> dict[str, tuple[int, ...]]:
    """`file_shapes` without those of the head."""
    stacked, shapes = method.shapes(geometry), {}
    for key, (name, index) in method.file_keys(geometry, root).items():
        shapes[key] = stacked[name] if index is None else stacked[name][1:]
    return shapes


def to_file_tensors(adapter: Adapter, geometry: Geometry) -> Tensors:
    """The tensors of an adapter as its weights file holds them, float32 on the CPU."""
    root = "" if adapter.task.peft_task_type in BARE else f"{geometry.prefix}."
    file: Tensors = {}
    for key, (name, index) in adapter.method.file_keys(geometry, root).items():
        file[key] = adapter.tensors[name] if index is None else adapter.tensors[name][index]
    for name, tensor in adapter.head.items():
        file[adapter.method.head_prefix + name] = tensor
    return {key: tensor.detach().cpu().float().contiguous() for key, tensor in file.items()}


def from_file_tensors(
    tensors: Tensors, adapter: Adapter, geometry: Geometry, keys: FileKeys
) -> MemberWeights:
    """The weights of an adapter from the tensors of its weights file, float32.

    Args:
        tensors: The tensors of the file.
        adapter: The adapter; its tensors are not read.
        geometry: The backbone's.
        keys: `Method.file_keys` of the adapter.
    """
    own = stacked_tensors(tensors, keys)
    start = adapter.method.head_prefix
    names = adapter.task.head_shapes(geometry.hidden)
    return MemberWeights(own, {name: _copy(tensors[start + name]) for name in names})


def stacked_tensors(tensors: Tensors, keys: FileKeys) -> Tensors:
    """The tensors of a method, stacked over layers, float32.

    Args:
        tensors: The tensors of the file.
        keys: `Method.file_keys` of the adapter.
    """
    own: Tensors = {}
    layers: dict[str, dict[int, torch.Tensor]] = {}
    for key, (name, index) in keys.items():
        if index is None:
            own[name] = _copy(tensors[key])
        else:
            layers.setdefault(name, {})[index] = tensors[key].float()
    for name, parts in layers.items():
        own[name] = torch.stack([parts[index] for index in sorted(parts)])
    return own


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A float32 copy: tensors of safetensors are mapped and would change with the file."""
    return tensor.to(torch.float32, copy=True)
