"""What this processor can do, read from torch once: fast paths are chosen by it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("adapterkit")

INT8_MAX = 127
"""Largest 8-bit weight on processors whose 8-bit products are exact."""

INT8_MAX_WITHOUT_VNNI = 63
"""Largest 8-bit weight on processors that add two 8-bit products in 16 bits: 2 x 255 x 63 is less
than 2^15, and 2 x 255 x 127 is not."""


@dataclass(frozen=True)
class Processor:
    """The properties of a processor that fast paths depend on.

    Attributes:
        instruction_set: Of torch's own loops: `AVX512`, `AVX2`, `NEON`, `DEFAULT`, ...
        prepacked: The dtypes of weights that oneDNN can prepack.
    """

    instruction_set: str
    prepacked: frozenset[torch.dtype]

    def __str__(self) -> str:
        dtypes = sorted(str(dtype).removeprefix("torch.") for dtype in self.prepacked)
        return f"{self.instruction_set} (oneDNN: {', '.join(dtypes)})"


@cache
def processor() -> Processor:
    """This processor, within limits that variables such as ONEDNN_MAX_CPU_ISA set."""
    return Processor(
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        prepacked=frozenset(_prepacked_dtypes()),
    )


@cache
def warn_of_plain_bfloat16() -> None:
    """Logs once that bfloat16 is slow on this processor."""
    log.warning(
        "this processor (%s) has no fast bfloat16 products: plain ones are used, several times"
        " slower than float32",
        processor().instruction_set,
    )


def pack_int8(weight: Tensor, bias: Tensor | None, largest: int) -> Any:
    """Rounds a weight to 8 bits, with one scale for each output, and prepacks it for oneDNN.

    Args:
        weight: `[out, in]`.
        bias: `[out]`.
        largest: Value to which the largest weight of each output is scaled.

    Returns:
        The packed weight that `torch.ops.quantized.linear_dynamic` takes.

    Raises:
        RuntimeError: This build of torch, or this processor, has no 8-bit products.
    """
    scales = weight.abs().amax(1).clamp(min=1e-8) / largest
    zeros = torch.zeros(len(scales), dtype=torch.long)
    with warnings.catch_warnings():
        # torch has deprecated its quantised tensors, but has no other way to this product yet.
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_ch")
        rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    try:
        return torch.ops.quantized.linear_prepack(rounded, bias)
    finally:
        torch.backends.quantized.engine = engine


@cache
def int8_max() -> int:
    """The largest 8-bit weight whose products are exact here; 0 without 8-bit products.

    Found by computing: a sum of the largest products is wrong if 16 bits do not hold it. That takes
    some milliseconds, so it is asked only for 8-bit products.
    """
    ones = torch.ones(64, 64)
    x = torch.ones(64, 64)
    x[0, 0] = 0.0
    for largest in (INT8_MAX, INT8_MAX_WITHOUT_VNNI):
        try:
            packed = pack_int8(ones, None, largest)
            y = [torch.ops.quantized.linear_dynamic(rows, packed, False) for rows in (x, x[:2])]
        except RuntimeError:
            return 0
        if all(torch.allclose(output[1], ones[1].sum(), rtol=1e-3) for output in y):
            return largest
    return 0


def _prepacked_dtypes() -> Iterator[torch.dtype]:
    if torch.backends.mkldnn.is_available():
        yield torch.float32
    if _is_supported("_is_mkldnn_bf16_supported"):
        yield torch.bfloat16
    if _is_supported("_is_mkldnn_fp16_supported"):
        yield torch.float16


def _is_supported(query: str) -> bool:
    try:
        return bool(getattr(torch.ops.mkldnn, query)())
    except (AttributeError, RuntimeError):  # torch was built without oneDNN
        return False
