"""Keys and values sequence after sequence, each after its prefix, in one launch on a GPU.

Prefix tokens are read from their adapters' tensors, so that a batch of a thousand adapters does not
copy a thousand prefixes first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

kernel: Callable[[Callable[..., None]], Any] = triton.jit(do_not_specialize=["layer"])


def gather(
    key: Tensor, value: Tensor, tokens: Tensor, addresses: Tensor, layer: int
) -> tuple[Tensor, Tensor]:
    """Gathers keys and values.

    Args:
        key, value: `[R, h]`.
        tokens: Index of each key's token, int32 `[K]`.
        addresses: Address of a prefix token's `[L, 2, h]`, float32; 0 for other keys, int64 `[K]`.
        layer: Which of the L layers.

    Returns:
        `[K, h]` each, in the dtype of key and value.
    """
    shape = len(tokens), key.shape[1]
    keys, values = key.new_empty(shape), value.new_empty(shape)
    _gather[len(tokens),](
        key,
        value,
        key.stride(0),
        value.stride(0),
        key.shape[1],
        tokens,
        addresses,
        layer,
        keys,
        values,
        columns=triton.next_power_of_2(key.shape[1]),
    )
    return keys, values


@kernel
def _gather(
    key: tl.tensor,
    value: tl.tensor,
    key_step: tl.tensor,
    value_step: tl.tensor,
    width: tl.tensor,
    tokens: tl.tensor,
    addresses: tl.tensor,
    layer: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    columns: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    column = tl.arange(0, columns)
    is_column = column < width
    address = tl.load(addresses + program)
    output = program.to(tl.int64) * width + column
    if address == 0:
        token = tl.load(tokens + program).to(tl.int64)
        row = tl.load(key + token * key_step + column, is_column)
        tl.store(keys + output, row, is_column)
        row = tl.load(value + token * value_step + column, is_column)
        tl.store(values + output, row, is_column)
    else:
        prefix = address.to(tl.pointer_type(tl.float32)) + 2 * layer * width + column
        tl.store(keys + output, tl.load(prefix, is_column).to(keys.dtype.element_ty), is_column)
        prefix += width
        tl.store(values + output, tl.load(prefix, is_column).to(values.dtype.element_ty), is_column)
