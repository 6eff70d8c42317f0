"""Keys and values of each sequence in turn, prefix tokens before its own, in one launch on a GPU.

Prefix tokens are read where they lie in their adapters' tensors, so that a batch of a thousand
tenants does not copy a thousand prefixes first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

kernel: Callable[[Callable[..., None]], Any] = triton.jit(do_not_specialize=["at"])


def gather(
    key: Tensor, value: Tensor, tokens: Tensor, places: Tensor, at: int
) -> tuple[Tensor, Tensor]:
    """Gathers keys and values.

    Args:
        key, value: `[R, h]`.
        tokens: Which token each key is of, int32 `[K]`.
        places: Address of a prefix token's `[L, 2, h]`, float32; 0 for any other key, int64 `[K]`.
        at: Which of the L layers.

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
        places,
        at,
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
    places: tl.tensor,
    at: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    columns: tl.constexpr,
) -> None:
    number = tl.program_id(0)
    column = tl.arange(0, columns)
    inside = column < width
    place = tl.load(places + number)
    into = number.to(tl.int64) * width + column
    if place == 0:
        token = tl.load(tokens + number).to(tl.int64)
        own = tl.load(key + token * key_step + column, inside)
        tl.store(keys + into, own, inside)
        own = tl.load(value + token * value_step + column, inside)
        tl.store(values + into, own, inside)
    else:
        prefix = place.to(tl.pointer_type(tl.float32)) + 2 * at * width + column
        tl.store(keys + into, tl.load(prefix, inside).to(keys.dtype.element_ty), inside)
        prefix += width
        tl.store(values + into, tl.load(prefix, inside).to(values.dtype.element_ty), inside)
