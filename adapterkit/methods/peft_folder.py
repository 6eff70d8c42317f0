"""A folder that PEFT wrote, as a method reads it: settings, and tensors by frozen module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backbone.frozen_weights import linear_parameters
from ..backbone.model import Backbone
from .file_keys import FileKeys, Shapes, shapes_in_file, stack_layers

PREFIXES = ("base_model.model.", "base_model.")
"""What the names of all tensors of a weights file start with: the first with modules inside the
model, the second around it."""

OLD_PARTS = re.compile(r"\.(?:default|base_layer|modules_to_save(?:\.default)?)(?=\.|$)")
"""Parts of names that PEFT's wrappers of a module add, in some versions and for some tensors."""


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
