"""What a backbone may be loaded as."""

from __future__ import annotations

from typing import Literal, get_args

from ..errors import BackboneError

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "8bit", "4bit"]
Device = Literal["auto", "cpu", "cuda"]


def check_load_options(dtype: str, quantization: str, device: str) -> None:
    """Refuses values that are not among the options.

    Raises:
        BackboneError: One is not.
    """
    for key, value, options in (
        ("dtype", dtype, get_args(Dtype)),
        ("quantization", quantization, get_args(Quantization)),
        ("device", device, get_args(Device)),
    ):
        if value not in options:
            raise BackboneError(f"{key}: expected one of {', '.join(options)}, got '{value}'")
