"""Folders of AdapterHub's library `adapters`, in the form of PEFT's folders.

The library (Poth et al. 2023) writes the settings of one method, or of a union of several, into
`adapter_config.json`, and all tensors into one weights file. Every method becomes one folder in
PEFT's form, which the methods here read. The format is that of `adapters` 1.x.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..backbone.model import Backbone
from .adapterhub_bottleneck import bottleneck_folder, own_bottlenecks
from .adapterhub_linears import linear_folder
from .adapterhub_part import WAY_OUT, AdapterHubPart
from .adapterhub_prefix import prefix_folder
from .peft_folder import PeftFolder

ARCHITECTURES: Mapping[str | None, tuple[str, Callable[[AdapterHubPart], PeftFolder]]] = {
    None: ("adapters", bottleneck_folder),
    "lora": ("loras", linear_folder),
    "prefix_tuning": ("prefix_tunings", prefix_folder),
}
"""`architecture` in the settings to the last part of the paths of its modules, and its reader."""

SHARED = "shared_parameters"
"""The same of tensors that all modules of an adapter share."""

OLD_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""Activations in files that name no version, to their names since."""

OLD_SCALE = re.compile(r"adapters\.(?:0\.|1\.0\.)")
"""Beginning of the versions that ignored the scale of LoRA and (IA)^3."""

Grouped = dict[str, dict[str, dict[str, Tensor]]]
"""Kind of a module to its path to its tensors."""


def peft_folders(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone
) -> list[PeftFolder]:
    """The methods of an AdapterHub folder, each in PEFT's form.

    Args:
        config: The content of its `adapter_config.json`.
        tensors: The tensors of its weights file.
        backbone: The backbone that it is read for.

    Raises:
        ValueError: One of them has no exact form here.
    """
    settings = [_current(own, config) for own in _methods(config)]
    grouped = _grouped(tensors, str(config["name"]))
    shared = next(iter(grouped.pop(SHARED, {}).values()), {})
    if shared and not any(own.get("phm_layer") or "vera_d" in own for own in settings):
        raise ValueError(f"{SHARED} have {', '.join(shared)}, which the settings do not name")
    folders: list[PeftFolder] = []
    unread = {(kind, path) for kind, modules in grouped.items() for path in modules}
    for own in settings:
        kind, read = ARCHITECTURES[own.get("architecture")]
        part = AdapterHubPart(own, grouped.get(kind, {}), shared, backbone)
        if len(settings) > 1 and read is bottleneck_folder:
            part = own_bottlenecks(part)
        if not part.modules:
            raise ValueError(f"there are no weights of '{kind}', which the settings name")
        if read is not linear_folder and backbone.geometry.shared_layers:
            raise ValueError(f"{kind} have no form here if layers share their weights; {WAY_OUT}")
        unread -= {(kind, path) for path in part.modules}
        folders.append(read(part))
    for _, path in unread:
        raise ValueError(f"there are weights at '{path}', which the settings do not name")
    return folders


def architecture(config: Mapping[str, Any]) -> str:
    """The library's name for the method of a folder, for records.

    Args:
        config: The content of its `adapter_config.json`.
    """
    return str(config["config"].get("architecture") or "bottleneck")


def _methods(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of each method of a folder.

    Raises:
        ValueError: One of them is not known here.
    """
    found = config["config"]
    parts = found["configs"] if found.get("architecture") == "union" else [found]
    for part in parts:
        if part.get("architecture") not in ARCHITECTURES:
            raise ValueError(
                f"architecture = {part.get('architecture')!r:.80} has no exact form here; {WAY_OUT}"
            )
    return [dict(part) for part in parts]


def _current(settings: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method as the library reads those of its earlier versions.

    Raises:
        ValueError: It reads them as something else than what was trained.
    """
    activation = settings.get("non_linearity")
    if "version" not in config and activation in OLD_ACTIVATIONS:
        return {**settings, "non_linearity": OLD_ACTIVATIONS[activation]}
    rank, alpha = settings.get("r"), settings.get("alpha")
    if rank == alpha or not OLD_SCALE.match(str(config.get("version"))):
        return settings
    if config["config"] != settings:
        raise ValueError(
            f"alpha = {alpha} in a union of version {config['version']} had no effect in training "
            "and has one now; set alpha to r in adapter_config.json"
        )
    return {**settings, "alpha": rank}


def _grouped(tensors: Mapping[str, Tensor], name: str) -> Grouped:
    """The tensors by kind and path of their module, float32.

    Args:
        tensors: The tensors of the weights file.
        name: The name that the adapter was saved under, which stands in all names of tensors.

    Raises:
        ValueError: A tensor belongs to something that has no form here.
    """
    kinds = "|".join((*(kind for kind, _ in ARCHITECTURES.values()), SHARED))
    pattern = re.compile(rf"(?P<path>.+)\.(?P<kind>{kinds})\.{re.escape(name)}\.(?P<rest>.+)")
    grouped: Grouped = {}
    for key, tensor in tensors.items():
        match = pattern.fullmatch(key)
        if match is None:
            raise ValueError(f"tensor '{key}' has no exact form here; {WAY_OUT}")
        grouped.setdefault(match["kind"], {}).setdefault(match["path"], {})[match["rest"]] = (
            tensor.float()
        )
    return grouped
