"""Properties of the compiled kernels besides their results."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
import torch

from adapterkit.ops.kernels import compiling
from adapterkit.ops.low_rank import LowRank
from adapterkit.ops.segments import Segments
from adapterkit.ops.stacked_weights import StackedWeights


def low_rank(downs: list[torch.Tensor], ups: list[torch.Tensor], lengths: list[int]) -> LowRank:
    return LowRank(
        Segments(lengths), StackedWeights(downs, -2), StackedWeights(ups, -1), (1.0,) * len(lengths)
    )


def test_memory_beside_a_block_of_tokens_is_not_written() -> None:
    torch.manual_seed(0)
    whole, x = torch.zeros(10, 12), torch.randn(4, 6)
    downs, ups = [torch.randn(1, 3, 6)] * 2, [torch.randn(1, 8, 3)] * 2
    with torch.inference_mode():
        low_rank(downs, ups, [1, 3]).add(whole[3:7, 2:10], x, 0)
    torch.testing.assert_close(whole[3:7, 2:10], x @ downs[0][0].T @ ups[0][0].T)
    whole[3:7, 2:10] = 0
    assert not whole.any()


def test_nan_stays_in_its_own_segment() -> None:
    x, y = torch.ones(4, 6), torch.zeros(4, 5)
    downs, ups = [torch.ones(1, 3, 6)] * 2, [torch.ones(1, 5, 3)] * 2
    x[0, 2] = float("nan")
    with torch.inference_mode():
        low_rank(downs, ups, [1, 3]).add(y, x, 0)
    assert y[0].isnan().all()
    assert torch.equal(y[1:], torch.full((3, 5), 18.0))


def test_weights_may_have_any_memory_layout() -> None:
    torch.manual_seed(0)
    x, downs, ups = torch.randn(5, 6), torch.randn(2, 2, 3, 6), torch.randn(2, 2, 5, 3)
    layouts = [one.transpose(-1, -2).contiguous().transpose(-1, -2) for one in (*downs, *ups)]
    results = []
    for first, second in ((list(downs), list(ups)), (layouts[:2], layouts[2:])):
        with torch.inference_mode():
            results.append(low_rank(first, second, [2, 3]).add(torch.zeros(5, 5), x, 1))
    assert torch.equal(*results)


def test_kernels_are_compiled_without_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = numba.njit

    def njit(signature: str, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return real(signature, **options)

    monkeypatch.setattr(numba, "njit", njit)

    @compiling.compiled("void(float32[::1])")
    def double(x: Any) -> None:
        for i in range(len(x)):
            x[i] *= 2

    numbers = np.ones(3, np.float32)
    double(numbers)
    assert numbers.tolist() == [2.0, 2.0, 2.0]
