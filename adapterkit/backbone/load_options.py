"""What a backbone may be loaded as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import BackboneError

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "8bit", "4bit"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class LoadOptions:
    """Dtype, quantization and device of a backbone, as `Backbone.load` describes them.

    Raises:
        BackboneError: A value is not among those that its attribute can have.
    """

    dtype: Dtype = "float32"
    quantization: Quantization = "none"
    device: Device = "auto"

    def __post_init__(self) -> None:
        for key, kind in (("dtype", Dtype), ("quantization", Quantization), ("device", Device)):
            value, options = getattr(self, key), get_args(kind)
            if value not in options:
                raise BackboneError(f"{key}: expected one of {', '.join(options)}, got '{value}'")

    @property
    def uses_bitsandbytes(self) -> bool:
        """Whether bitsandbytes keeps the layers' linears quantised."""
        return self.quantization in ("8bit", "4bit")

    @property
    def hidden_dtype(self) -> Dtype:
        """Dtype that hidden states have; bitsandbytes does not compute in float32."""
        return "bfloat16" if self.uses_bitsandbytes and self.dtype == "float32" else self.dtype
