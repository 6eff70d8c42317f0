"""Dtype, quantization and device as one value, which is checked when it is built."""

from __future__ import annotations

from typing import Any

import pytest

from adapterkit.backbone.load_options import LoadOptions
from adapterkit.errors import BackboneError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype: expected one of float32, bfloat16, float16, got 'float8'"),
        ({"quantization": "2bit"}, "quantization: expected one of none, int8, 8bit, 4bit, got"),
        ({"device": "tpu"}, "device: expected one of auto, cpu, cuda, got 'tpu'"),
    ],
)
def test_unknown_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        LoadOptions(**options)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (LoadOptions(), "float32"),
        (LoadOptions("float16"), "float16"),
        (LoadOptions(quantization="8bit"), "bfloat16"),
        (LoadOptions("float16", "4bit"), "float16"),
        (LoadOptions(quantization="int8"), "float32"),
    ],
)
def test_bitsandbytes_does_not_compute_in_float32(options: LoadOptions, dtype: str) -> None:
    assert options.hidden_dtype == dtype
