"""An adapter merged into its backbone: a plain checkpoint of transformers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..adapter.adapter import Adapter
from ..adapter.json_file import to_json
from ..adapter.model_card import merged_card
from ..adapter.peft_format import STATES, has_transformers_head, head_input, head_modules
from ..backbone.families.base import Family, family_of
from ..backbone.geometry import ENTRY
from ..backbone.model import Backbone
from ..backbone.weight_files import SINGLE
from ..errors import AdapterError
from ..inference.forward import text_limit
from ..methods.base import Tensors
from ..methods.merged_form import ParameterChange
from .plain_task import with_plain_task
from .sentence_transformers import sentence_transformers_files

BARE_MODEL = "AutoModel"
"""transformers' class of models without a head."""

Place = tuple[str, tuple[int, int] | None]
"""Path of a module, and the first and past-the-last of its outputs that belong to a site; None for
all of them."""


def merged_checkpoint(adapter: Adapter, backbone: Backbone) -> dict[str, bytes]:
    """The files of a checkpoint with which transformers computes the answers of an adapter.

    Args:
        adapter: The adapter.
        backbone: The backbone that it was trained on, in float32 and not prepared.

    Returns:
        Content by path: `config.json`, `model.safetensors`, the tokenizer and a README. That of an
        embedding adapter is one of sentence-transformers as well.

    Raises:
        AdapterError: The adapter does more than change weights, or transformers has no such head.
    """
    plain = with_plain_task(adapter)
    family = family_of(_config(backbone).model_type)
    try:
        model = task_model(plain, backbone)
        config = model.config
        tensors = _checkpoint_tensors(model, plain, backbone, family)
    except ValueError as error:
        raise AdapterError(
            f"'{adapter.name}' has no exact form as a checkpoint of transformers: {error}; serve "
            "it with adapterkit"
        ) from None
    config.dtype = torch.float32
    config.architectures = [type(model).__name__]
    auto = plain.task.transformers_model or BARE_MODEL
    return {
        "config.json": config.to_json_string().encode(),
        SINGLE: to_safetensors(tensors, metadata={"format": "pt"}),
        "README.md": merged_card(adapter, auto).encode(),
        **tokenizer_files(plain, backbone, text_limit(backbone, plain)),
        **sentence_transformers_files(plain, backbone),
    }


def task_model(adapter: Adapter, backbone: Backbone) -> Any:
    """The model of transformers for a task, on the meta device.

    Args:
        adapter: An adapter of the task, as `with_plain_task` returns it.
        backbone: Its backbone.

    Raises:
        ValueError: transformers has no model with such a head.
    """
    import transformers

    config = _config(backbone)
    name = adapter.task.transformers_model or BARE_MODEL
    family = family_of(config.model_type)
    lm_names = set(family.lm_head.values())
    modules = {parameter.rpartition(".")[0] for parameter in adapter.head}
    of_lm_head = adapter.task.masks_tokens and bool(lm_names) and modules <= lm_names
    is_bare = adapter.task.peft_task_type == STATES and modules <= {"projection"}
    if getattr(adapter.task, "pooling", None) == "pooler" and family.pooler_path is None:
        is_bare = False
    if not (of_lm_head or is_bare or has_transformers_head(adapter, backbone.geometry)):
        raise ValueError(
            f"its head reads {head_input(adapter.task)}, as no task model of transformers of type "
            f"{config.model_type} does"
        )
    name_labels(config, adapter)
    with torch.device("meta"):
        return getattr(transformers, name).from_config(config)


def _config(backbone: Backbone) -> Any:
    """A copy of the settings of the backbone's model."""
    return copy.deepcopy(backbone.model.config)


def name_labels(config: Any, adapter: Adapter) -> None:
    """Sets number, names and meaning of the logits in the settings of a task model."""
    names = ("classifier.bias", "qa_outputs.bias")
    bias = next((adapter.head[name] for name in names if name in adapter.head), None)
    if bias is None:
        return
    labels = getattr(adapter.task, "labels", None) or [f"LABEL_{n}" for n in range(len(bias))]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = adapter.task.problem_type


def _checkpoint_tensors(
    model: Any, adapter: Adapter, backbone: Backbone, family: Family
) -> Tensors:
    """The tensors of a task model, float32 on the CPU, by their names in its checkpoint.

    Raises:
        ValueError: A tensor is missing, or the adapter does more than change weights.
    """
    geometry = backbone.geometry
    merged = _merged_weights(adapter, backbone)
    paths = head_modules(adapter, geometry)
    head = {
        f"{paths.get(module, module)}.{end}": tensor
        for name, tensor in adapter.head.items()
        for module, _, end in [name.rpartition(".")]
    }
    lm_head = {**(backbone.lm_head.tensors if backbone.lm_head else {}), **adapter.head}
    is_bare = not hasattr(model, geometry.prefix)
    root = "" if is_bare else f"{geometry.prefix}."
    found: Tensors = {}
    written: set[nn.Parameter] = set()
    named = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in sorted(named, key=lambda item: not item[0].startswith(root)):
        if parameter in written:
            continue  # tied, such as a decoder to the word embeddings
        written.add(parameter)
        module, _, end = name.rpartition(".")
        own = name.removeprefix(root) if name.startswith(root) else ""
        tensor = head.get(name, merged.get(own))  # a head may be the pooler of task models alone
        if tensor is None and not own and (adapter.task.masks_tokens or family.pools_by_head):
            tensor = _lm_head_tensor(lm_head, f"{family.lm_head.get(module)}.{end}", parameter)
        if own and family.is_pooler_weight(own) and not backbone.has_pooler:
            continue  # the backbone's checkpoint has none, either, and nothing reads it
        if tensor is None or tensor.shape != parameter.shape:
            raise ValueError(f"transformers' model has a weight '{name}', which it has not")
        found[name] = tensor.detach().to("cpu", torch.float32).contiguous()
    return found


def _lm_head_tensor(
    tensors: Mapping[str, Tensor], name: str, parameter: nn.Parameter
) -> Tensor | None:
    """A tensor of the head for masked language modelling. A bias that is missing is zero."""
    if name not in tensors and name.endswith(".bias"):
        return torch.zeros(parameter.shape)
    return tensors.get(name)


def _merged_weights(adapter: Adapter, backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of the backbone with what an adapter and its parents add to them.

    Raises:
        ValueError: They do more, or differently in layers that share their weights.
    """
    if adapter.extra_members:
        raise ValueError(f"it is an ensemble of {adapter.n_members} members")
    parts = [part for part in adapter.stack if part.tensors]
    for part in parts:
        if len(parts) > 1 and part.method.multiplies:
            raise ValueError(f"{part.method.type} multiplies what other adapters of the stack add")
    merged = dict(backbone.model.state_dict())
    places = _parameter_places(backbone)
    layers_of: dict[str, set[int]] = {}
    for (index, _), (path, _) in places.items():
        layers_of.setdefault(path, set()).add(index)
    changes: dict[tuple[str, str], dict[int, Tensor]] = {}
    for part in parts:
        found = part.method.parameter_changes(part.tensors, backbone.frozen_weights)
        for (index, site), by_name in found.items():
            if (index, site) not in places:
                raise ValueError(f"no norm returns what enters its layers, which a {site} changes")
            path, columns = places[index, site]
            for name, change in by_name.items():
                frozen = merged.get(f"{path}.{name}")
                if frozen is None:
                    _check_without_effect(change, f"{path}.{name}")
                    continue
                totals = changes.setdefault((path, name), {})
                total = totals.setdefault(index, torch.zeros_like(frozen))
                rows = slice(*(columns or (None,)))
                total[rows] += (change.factor - 1) * frozen[rows] + change.shift
    for (path, name), by_layer in changes.items():
        first, *others = by_layer.values()
        if len(by_layer) < len(layers_of[path]) or any(
            not torch.equal(first, other) for other in others
        ):
            raise ValueError("its layers share their weights but not their adapters")
        merged[f"{path}.{name}"] = merged[f"{path}.{name}"] + first
    return merged


def _parameter_places(backbone: Backbone) -> dict[tuple[int, str], Place]:
    """Where the parameters of each site are: of linears and norms in every layer, and of the norm
    before the layers."""
    names = {module: name for name, module in backbone.model.named_modules()}
    geometry, found = backbone.geometry, dict[tuple[int, str], Place]()
    for index, layer in enumerate(backbone.layers):
        for name, site in geometry.sites.items():
            found[index, name] = names[layer.get_submodule(site.path)], site.columns
        for name, path in geometry.norms.items():
            found[index, name] = names[layer.get_submodule(path)], None
    if geometry.entry_norm is not None:
        found[0, ENTRY] = geometry.entry_norm, None
    return found


def _check_without_effect(change: ParameterChange, parameter: str) -> None:
    """Refuses to add to a parameter that the model has not.

    Raises:
        ValueError: Something would be added.
    """
    if isinstance(change.shift, Tensor) and bool(change.shift.any()):
        raise ValueError(f"it trains '{parameter}', which the model has not")


def tokenizer_files(adapter: Adapter, backbone: Backbone, limit: int) -> dict[str, bytes]:
    """The files of the backbone's tokenizer, by name.

    Args:
        adapter: The adapter whose texts it reads.
        backbone: The backbone.
        limit: Most tokens of a text.
    """
    tokenizer = copy.deepcopy(backbone.tokenizer)
    tokenizer.model_max_length = limit
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    if not getattr(adapter.task, "pair_token_types", True):
        settings = json.loads(files["tokenizer_config.json"])
        settings["model_input_names"] = ["input_ids", "attention_mask"]
        files["tokenizer_config.json"] = to_json(settings)
    return files
