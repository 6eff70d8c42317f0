"""A folder that PEFT wrote, as a method reads it: settings, and tensors by frozen module."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backbone.frozen_weights import linear_parameters
from ..backbone.geometry import Geometry
from ..backbone.model import Backbone

FileKeys = dict[str, tuple[str, int | None]]
"""Name of a tensor in the weights file to its name in memory and its index there: files hold one
tensor a layer, memory holds them stacked. The index is None for a tensor that is not stacked."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor to its shape."""

PREFIXES = ("base_model.model.", "base_model.")
"""What the names of all tensors of a weights file start with: the first with modules inside the
model, the second around it."""

OLD_PARTS = re.compile(r"\.(?:default|base_layer|modules_to_save(?:\.default)?)(?=\.|$)")
"""Parts of names that PEFT's wrappers of a module add, in some versions and for some tensors."""

COMMON_SETTINGS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
        *("revision", "inference_mode", "target_modules", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "modules_to_save", "init_weights"),
        "fan_in_fan_out",  # PEFT ignores it for the linears of an encoder
    )
)
"""Settings of every method that do not change what a finished adapter computes."""

OFF: tuple[Any, ...] = (None, False, "none", {}, [])
"""Values of a setting that switch it off."""


def check_settings(config: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses settings that may change answers and are not read here, unknown ones included.

    Args:
        config: The content of `adapter_config.json`.
        known: Settings beside `COMMON_SETTINGS` that are read, or that only training reads.

    Raises:
        ValueError: There is such a setting, and it is not switched off.
    """
    for name, value in config.items():
        if name not in COMMON_SETTINGS and name not in known and value not in OFF:
            raise ValueError(
                f"{name} = {value!r:.80} is not supported; train without it, or merge the adapter "
                "into its base model in PEFT"
            )


def target_settings(
    targets: Sequence[str], layers: tuple[int, ...] | None, geometry: Geometry
) -> dict[str, Any]:
    """The settings by which PEFT finds the linears that an adapter edits.

    Args:
        targets: Canonical names of the linears.
        layers: Layers that are edited; None for all.
        geometry: The backbone's.
    """
    names = [geometry.sites[site].peft_name(site) for site in targets]
    # PEFT matches by suffix, so a name may also be the end of another linear's.
    endings = tuple(f".{name}" for name in names)
    excluded = [
        other
        for site, linear in geometry.sites.items()
        if site not in targets and (other := linear.peft_name(site)).endswith(endings)
    ]
    layer_list = geometry.layers_path.rpartition(".")[2]
    return {
        "target_modules": names,
        "exclude_modules": excluded or None,
        "layers_to_transform": list(layers) if layers is not None else None,
        "layers_pattern": layer_list if layers is not None else None,
    }


class Place(NamedTuple):
    """A site of one layer.

    Attributes:
        layer: The layer.
        site: The site.
        columns: First and past-the-last output of the linear that belong to the site; None for all.
    """

    layer: int
    site: str
    columns: tuple[int, int] | None


@dataclass(frozen=True)
class PeftFolder:
    """A folder that PEFT wrote, without the tensors of the task's head.

    Attributes:
        config: The content of `adapter_config.json`.
        tensors: The tensors by name, as `plain_names` returns them.
        backbone: The backbone that it is read for.
        root: Path of the backbone inside the model that PEFT changed, such as `bert.`; may be
            empty.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    backbone: Backbone
    root: str

    @classmethod
    def of(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone
    ) -> PeftFolder:
        """A folder with the root that the names of its tensors tell.

        Args:
            config: As the attribute.
            tensors: The tensors of its weights file.
            backbone: As the attribute.

        Raises:
            ValueError: There are layers under several paths.
        """
        named, geometry = plain_names(tensors), backbone.geometry
        layer = re.compile(rf"(.*?){re.escape(geometry.layers_path)}\.\d+\.")
        roots = sorted({found[1] for name in named if (found := layer.match(name))})
        if len(roots) > 1:
            raise ValueError(f"there are layers under several paths: {', '.join(roots)}")
        known = f"{geometry.prefix}."
        root = roots[0] if roots else known * any(name.startswith(known) for name in named)
        return cls(config, named, backbone, root)

    def modules(self, parameters: Iterable[str]) -> dict[str, dict[str, Tensor]]:
        """The trained tensors by path of their module, then by the last part of their name.

        Args:
            parameters: The last parts of names, such as `lora_A.weight`.

        Raises:
            ValueError: A tensor inside the model has another last part.
        """
        found: dict[str, dict[str, Tensor]] = {}
        endings = sorted(parameters, key=len, reverse=True)
        for name, tensor in self.tensors.items():
            ending = next((ending for ending in endings if name.endswith(f".{ending}")), None)
            if ending is None:
                if "." in name:
                    raise ValueError(f"tensor '{name}' does not belong here")
                continue  # one of the whole folder, such as `vblora_vector_bank`
            found.setdefault(name.removesuffix(f".{ending}"), {})[ending] = tensor.float()
        return found

    def places(self, path: str) -> list[Place]:
        """Where a linear is computed in the layers; several times if layers share their weights.

        A linear that computes several sites is one place if it is a site as well.

        Args:
            path: Path inside the model that PEFT changed.
        """
        linear, sites = self._linear(path), self.backbone.geometry.sites
        found = [
            Place(index, name, site.columns)
            for index, layer in enumerate(self.backbone.layers)
            for name, site in sites.items()
            if layer.get_submodule(site.path) is linear
        ]
        return [place for place in found if place.columns is None] or found

    def norm_places(self, path: str) -> list[tuple[int, str]]:
        """The layers and sites of a layer norm; several if layers share their weights.

        Args:
            path: Path inside the model that PEFT changed.
        """
        norm = self._module(path)
        return [
            (index, site)
            for index, layer in enumerate(self.backbone.layers)
            for site, own in self.backbone.geometry.norms.items()
            if layer.get_submodule(own) is norm
        ]

    def has_norm(self, path: str) -> bool:
        """Whether a path is that of a layer norm of the backbone."""
        return isinstance(self._module(path), nn.LayerNorm)

    def frozen_norm(self, path: str) -> dict[str, Tensor]:
        """Weight and bias of a layer norm, `[h]` float32 on the CPU; no bias if it has none.

        Args:
            path: Path inside the model that PEFT changed.

        Raises:
            ValueError: The backbone has no such layer norm.
        """
        norm = self._module(path)
        if not isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):
            raise ValueError(f"'{path}' is trained, which is no layer norm here")
        return {n: t.detach().to("cpu", torch.float32) for n, t in norm.named_parameters()}

    def shape(self, path: str) -> tuple[int, int]:
        """Width out and width in of a frozen linear.

        Args:
            path: Path inside the model that PEFT changed.

        Raises:
            ValueError: The backbone has no such linear.
        """
        linear = self._linear(path)
        return linear.out_features, linear.in_features

    def frozen_weight(self, path: str) -> Tensor:
        """The frozen weight of a linear, `[out, in]` float32 on the CPU.

        Args:
            path: Path inside the model that PEFT changed.

        Raises:
            ValueError: The backbone has no such linear, or its weights are quantised.
        """
        return self.frozen_linear(path)["weight"]

    def frozen_linear(self, path: str) -> dict[str, Tensor]:
        """Weight `[out, in]` and bias `[out]` of a frozen linear, float32 on the CPU.

        Args:
            path: Path inside the model that PEFT changed.

        Raises:
            ValueError: As in `frozen_weight`.
        """
        found = linear_parameters(self._linear(path), path)
        return {name: tensor.cpu() for name, tensor in found.items()}

    def _module(self, path: str) -> nn.Module | None:
        try:
            return self.backbone.model.get_submodule(path.removeprefix(self.root))
        except AttributeError:
            return None

    def _linear(self, path: str) -> nn.Linear:
        found = self._module(path)
        if not isinstance(found, nn.Linear):  # the quantised ones extend it
            raise ValueError(f"'{path}' is trained, which is no linear of '{self.backbone.name}'")
        return found

    def read(self, keys: FileKeys, shapes: Shapes) -> dict[str, Tensor]:
        """The tensors of a method, stacked as in memory.

        Args:
            keys: `Method.file_keys`.
            shapes: `Method.shapes`.

        Raises:
            ValueError: A tensor is missing, has another shape, or does not belong here.
        """
        names = {plain_name(key): place for key, place in keys.items()}
        faults = [f"tensor '{name}' is missing" for name in names if name not in self.tensors]
        faults += [f"tensor '{n}' does not belong here" for n in self.tensors if n not in names]
        for name, shape in shapes_in_file(names, shapes).items():
            tensor = self.tensors.get(name)
            if tensor is not None and tuple(tensor.shape) != shape:
                faults.append(
                    f"tensor '{name}' has shape {list(tensor.shape)}, expected {list(shape)}"
                )
        if faults:
            raise ValueError("; ".join(faults))
        return stack_layers(self.tensors, names)


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

    They are copies: tensors of safetensors are mapped and would change with the file.

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


def plain_name(key: str) -> str:
    """The name of a tensor inside the model, as new versions spell it, for that in a file."""
    name = OLD_PARTS.sub("", key)
    return name.removeprefix(next((start for start in PREFIXES if name.startswith(start)), ""))


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a weights file by their names inside the model, as new versions spell them.

    Raises:
        ValueError: Two different tensors have one name then.
    """
    plain: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if ".original_module." in key:
            continue  # the untrained copy of a module that is trained as a whole
        name = plain_name(key)
        if name in plain and not torch.equal(plain[name], tensor):
            raise ValueError(f"two tensors are named '{name}'")
        plain[name] = tensor
    return plain
