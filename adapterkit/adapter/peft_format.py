"""PEFT's folder format: `adapter_config.json`, and the names of tensors in the weights file.

It is the format of PEFT 0.13 and later for the methods that PEFT has; the other methods follow its
rules with names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backbone.embedded import EMBEDDED, EMBEDDED_HUB_NAME
from ..backbone.geometry import Geometry
from ..methods.base import Tensors
from ..methods.file_keys import FileKeys, shapes_in_file, stack_layers
from ..tasks.base import Task
from .adapter import Adapter, MemberWeights
from .weights import Shapes

CONFIG = "adapter_config.json"

STATES = "FEATURE_EXTRACTION"
"""PEFT's task type of adapters whose outputs are the states of the backbone."""

NO_MODEL = "No task model of transformers has"

BARE = (None, STATES)
"""PEFT's task types whose model is the backbone itself and not a task model around it."""


def peft_config(adapter: Adapter, geometry: Geometry) -> dict[str, Any]:
    """The content of `adapter_config.json`."""
    modules = head_modules(adapter, geometry)
    return {
        "peft_type": adapter.method.peft_type,
        "task_type": task_type(adapter, geometry),
        "base_model_name_or_path": _hub_name(adapter),
        "inference_mode": True,
        "modules_to_save": sorted({saved_module(path, geometry) for path in modules.values()})
        or None,
        **adapter.method.config(geometry),
    }


def task_type(adapter: Adapter, geometry: Geometry) -> str | None:
    """PEFT's `task_type`, by which PEFT computes with the folder what adapterkit computes.

    Returns:
        That of the task, if a task model of transformers has the adapter's head and PEFT hands its
        inputs on; None if only PEFT's plain model does, or if the adapter is more than this folder;
        else that of the plain backbone.
    """
    if peft_fault(adapter, geometry) is not None:
        return None
    if not has_transformers_head(adapter, geometry):
        return STATES
    claim = adapter.task.peft_claim
    # PEFT's plain model has no prefixes.
    return STATES if claim is None and adapter.num_virtual_tokens else claim


def peft_note(adapter: Adapter, geometry: Geometry) -> str | None:
    """How PEFT uses the folder, for its README; None if PEFT does not know the method."""
    if not adapter.method.head_prefix:
        return None
    fault = peft_fault(adapter, geometry)
    if fault is not None:
        return f"PEFT cannot compute what it computes: {fault}."
    base = f'"{_hub_name(adapter)}"'
    if not answers_in_peft(adapter, geometry):
        note = f"PEFT computes the states: `{_peft_call('AutoModel', base)}`."
        if adapter.head:
            names = ", ".join(f"`{key}`" for key in _head_keys(adapter, geometry).values())
            has_head = has_transformers_head(adapter, geometry)
            lacks = "It has no prefixes in a model with" if has_head else NO_MODEL
            note += f" {lacks} this head ({names} in the weights file)"
            note += f", which reads {head_input(adapter.task)}."
        return note
    n_labels = len(next((t for n, t in adapter.head.items() if n == "classifier.bias"), ()))
    base += f", num_labels={n_labels}" * bool(n_labels)
    names = ", ".join(f"`{label}`" for label in getattr(adapter.task, "labels", None) or ())
    order = f" The labels in the order of its logits: {names}." * bool(names)
    return f"PEFT answers the same: `{_peft_call(adapter.task.transformers_model, base)}`.{order}"


def peft_fault(adapter: Adapter, geometry: Geometry) -> str | None:
    """Why PEFT cannot compute the states of an adapter from its folder; None if it can."""
    if adapter.extra_members:
        return f"it is an ensemble of {adapter.n_members} members, and PEFT would read the first"
    if adapter.on_top_of is not None:
        return f"it stands on '{adapter.on_top_of.name}', and PEFT would leave that out"
    if adapter.position_offset != adapter.num_virtual_tokens:
        return "its texts start at position 0, and in PEFT after the prefix"
    if adapter.num_virtual_tokens and not geometry.takes_past_keys:
        return "its model in transformers takes no keys and values of a prefix"
    if adapter.method.sites and geometry.shared_layers:
        return "its layers share their weights but not their adapters"
    parts = [s for s in adapter.method.sites if s in geometry.sites and geometry.sites[s].columns]
    return f"{parts[0]} is only a part of a linear" if parts else None


def _peft_call(model: str | None, arguments: str) -> str:
    return f'PeftModel.from_pretrained({model}.from_pretrained({arguments}), "folder")'


def head_input(task: Task) -> str:
    """What the head reads, for people."""
    pooling = getattr(task, "pooling", None)
    inputs = {"mean": "the mean of all states", "cls": "the state of the first token"}
    found = inputs.get(pooling or "", "the output of the pooler" if pooling else "the states")
    center, spread = (getattr(task, name, None) for name in ("center", "spread"))
    if center is None or spread is None:
        return found
    return f"{found}; the number is {spread:g} times its output, plus {center:g}"


def _hub_name(adapter: Adapter) -> str:
    """The base model as PEFT and transformers find it."""
    return EMBEDDED_HUB_NAME if adapter.backbone == EMBEDDED else adapter.backbone


def has_transformers_head(adapter: Adapter, geometry: Geometry) -> bool:
    """Whether a task model of transformers has the head of an adapter."""
    return adapter.task.transformers_head(geometry.sequence_head) is not None


def answers_in_peft(adapter: Adapter, geometry: Geometry) -> bool:
    """Whether PEFT gives the answers of an adapter, and not its states alone: a task model of
    transformers has its head, and PEFT has its method there. It has prefixes for the models that it
    has a task type for, and drops the token types of others."""
    has_method = not adapter.num_virtual_tokens or adapter.task.peft_claim is not None
    return has_method and has_transformers_head(adapter, geometry)


def head_modules(adapter: Adapter, geometry: Geometry) -> dict[str, str]:
    """Paths of the head's modules in the task model of transformers, by their names here; none if
    there is no such model."""
    paths = adapter.task.transformers_head(geometry.sequence_head)
    if paths is None:
        return {}
    names = {name.rpartition(".")[0] for name in adapter.task.head_shapes(geometry.hidden)}
    return {name: paths.get(name, name) for name in names}


def saved_module(path: str, geometry: Geometry) -> str:
    """The module with a part of a head, as PEFT's `modules_to_save` names it.

    Args:
        path: Path of the part inside the task model.
        geometry: The backbone's.
    """
    return path.removeprefix(f"{geometry.prefix}.").partition(".")[0]


def _head_keys(adapter: Adapter, geometry: Geometry) -> dict[str, str]:
    """Names of the head's tensors in the weights file, by their names in memory."""
    modules, keys = head_modules(adapter, geometry), {}
    for name in adapter.task.head_shapes(geometry.hidden):
        module, _, parameter = name.rpartition(".")
        keys[name] = f"{adapter.method.head_prefix}{modules.get(module, module)}.{parameter}"
    return keys


def base_model(config: Mapping[str, Any]) -> str | None:
    """Name of the backbone that the settings of another program name; None if they name none.

    Args:
        config: The content of its `adapter_config.json`: of PEFT, or of AdapterHub's library.
    """
    name = config.get("base_model_name_or_path") or config.get("model_name")
    return EMBEDDED if name == EMBEDDED_HUB_NAME else str(name) if name else None


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
    keys = adapter.method.file_keys(geometry, root)
    shapes = shapes_in_file(keys, adapter.method.shapes(geometry))
    head = _head_keys(adapter, geometry)
    for name, shape in adapter.task.head_shapes(geometry.hidden).items():
        shapes[head[name]] = shape
    return shapes


def to_file_tensors(adapter: Adapter, geometry: Geometry) -> Tensors:
    """The tensors of an adapter as its weights file holds them, float32 on the CPU."""
    root = f"{geometry.prefix}." if has_transformers_head(adapter, geometry) else ""
    file: Tensors = {}
    for key, (name, index) in adapter.method.file_keys(geometry, root).items():
        file[key] = adapter.tensors[name] if index is None else adapter.tensors[name][index]
    head = _head_keys(adapter, geometry)
    for name, tensor in adapter.head.items():
        file[head[name]] = tensor
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
    head: FileKeys = {key: (name, None) for name, key in _head_keys(adapter, geometry).items()}
    return MemberWeights(stack_layers(tensors, keys), stack_layers(tensors, head))
