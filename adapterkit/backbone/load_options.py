"""What a backbone may be loaded as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import BackboneError

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "8bit", "4bit"]
Device = Literal["auto", "cpu", "cuda"]

AUTO_MAP = "auto"

DeviceMap = str | Mapping[str, str | int]
"""Names of modules to `cpu`, `disk` or the number of a GPU; a file with that; or `auto`."""


@dataclass(frozen=True)
class LoadOptions:
    """Dtype, quantization, device and device map of a backbone, as `Backbone.load` describes them.

    Attributes:
        sharded: Divide the weights of layers among the processes of this training (FSDP).

    Raises:
        BackboneError: A value is not among those that its attribute can have, or a quantised
            backbone has a device map, or is sharded.
    """

    dtype: Dtype = "float32"
    quantization: Quantization = "none"
    device: Device = "auto"
    device_map: DeviceMap | None = None
    sharded: bool = False

    def __post_init__(self) -> None:
        for key, kind in (("dtype", Dtype), ("quantization", Quantization), ("device", Device)):
            value, options = getattr(self, key), get_args(kind)
            if value not in options:
                raise BackboneError(f"{key}: expected one of {', '.join(options)}, got '{value}'")
        if self.sharded and (self.device_map is not None or self.quantization != "none"):
            other = "a device_map" if self.device_map else f"quantization {self.quantization}"
            raise BackboneError(
                f"FSDP: the weights of a backbone with {other} cannot be divided among processes; "
                "leave it out, or choose no FSDP in accelerate config"
            )
        if self.device_map is not None and self.quantization != "none":
            raise BackboneError(
                f"device_map: a backbone with quantization {self.quantization} lies on one device; "
                "leave one of the two out"
            )

    @property
    def uses_bitsandbytes(self) -> bool:
        """Whether bitsandbytes keeps the layers' linears quantised."""
        return self.quantization in ("8bit", "4bit")

    @property
    def hidden_dtype(self) -> Dtype:
        """Dtype that hidden states have; bitsandbytes does not compute in float32."""
        return "bfloat16" if self.uses_bitsandbytes and self.dtype == "float32" else self.dtype
