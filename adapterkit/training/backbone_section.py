"""The section `backbone` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..backbone.embedded import EMBEDDED
from ..backbone.load_options import (
    AUTO_MAP,
    Device,
    DeviceMap,
    Dtype,
    LoadOptions,
    Quantization,
)
from ..backbone.model import Backbone


@dataclass(frozen=True)
class BackboneSection:
    """The frozen model.

    Attributes:
        model: minilm (embedded), a local folder or a hub name.
        dtype: float32, bfloat16 or float16: dtype of the frozen weights and of hidden states.
        quantization: none; 8bit or 4bit: the frozen linears, by bitsandbytes, for memory; int8:
            their products on a CPU, for speed. Heads never.
        device: auto (the GPU where there is one), cpu or cuda.
        device_map: Where the weights of each layer lie, for a model larger than the memory of its
            device, as in transformers: auto, a file, or names of modules to cpu, disk or the number
            of a GPU. Batches are computed on the device.
        revision: Branch, tag or commit of a hub model.
    """

    model: str = "minilm"
    dtype: Dtype = "float32"
    quantization: Quantization = "none"
    device: Device = "auto"
    device_map: str | dict[str, str | int] | None = None
    revision: str | None = None

    def source(self, folder: Path) -> str:
        """The model, as a path from here where it is a folder.

        Args:
            folder: What a relative path starts from.
        """
        local = self.model != EMBEDDED and (folder / self.model).is_dir()
        return str(folder / self.model) if local else self.model

    def _device_map(self, folder: Path) -> DeviceMap | None:
        """The map, or the path of its file from here."""
        given = self.device_map
        return str(folder / given) if isinstance(given, str) and given != AUTO_MAP else given

    def load(self, folder: Path, prepared: bool = True, sharded: bool = False) -> Backbone:
        """The backbone.

        Args:
            folder: What a relative path starts from.
            prepared: As in `Backbone.load`.
            sharded: As in `LoadOptions`.

        Raises:
            BackboneError: It cannot be loaded.
        """
        place = self._device_map(folder)
        options = LoadOptions(self.dtype, self.quantization, self.device, place, sharded)
        return Backbone.load_with(
            self.source(folder), options, revision=self.revision, prepared=prepared
        )
