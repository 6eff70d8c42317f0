"""The kernels against plain loops, over uniform, skewed, single and many-tenant traffic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapterkit.ops.attention import packed_attention
from adapterkit.ops.attention_plan import AttentionPlan
from adapterkit.ops.dropout import Dropout, DropoutSeed
from adapterkit.ops.low_rank import LowRank
from adapterkit.ops.relative_bias import RelativeBias
from adapterkit.ops.segments import Segments
from adapterkit.ops.stacked_weights import StackedWeights
from helpers import reference

TRAFFIC = {
    "uniform": [8, 8, 8, 8],
    "skewed": [1, 1, 97, 2, 1],
    "one tenant": [50],
    "all distinct": [1] * 40,
    "tile edges": [15, 16, 17, 31, 32, 33],
}
SCALES = [0.5 + 0.1 * g for g in range(40)]


def low_rank(leaves: list[Tensor], lengths: list[int]) -> LowRank:
    """The layers over weights of one layer, with an activation if there are biases."""
    down, up, *bias = ([w[None] for w in leaf] for leaf in leaves)
    inner, outer = (StackedWeights(b, -1) for b in bias) if bias else (None, None)
    return LowRank(
        Segments(lengths),
        StackedWeights(down, -2),
        StackedWeights(up, -1),
        tuple(SCALES[: len(lengths)]),
        inner,
        outer,
        F.silu if bias else None,
    )


Add = Callable[[LowRank, Tensor, Tensor], Tensor]
"""`(kernel, y, x) -> y + ...`"""

WAYS: dict[str, Add] = {
    "compiled": lambda kernel, y, x: kernel.add(y, x, 0),
    "torch": lambda kernel, y, x: y + kernel.delta(x, 0, y.dtype),
}
"""How LowRank computes on a CPU, and on other devices."""


@pytest.mark.parametrize("lengths", TRAFFIC.values(), ids=TRAFFIC.keys())
@pytest.mark.parametrize("full", [False, True], ids=["lora", "bottleneck"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize(("width", "rank"), [(12, 3), (32, 9)], ids=["odd", "whole vectors"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)])
def test_low_rank_equals_the_loop_forward_and_backward(
    lengths: list[int],
    full: bool,
    way: Add,
    width: int,
    rank: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    torch.manual_seed(0)
    n, t = len(lengths), sum(lengths)
    start, target = torch.randn(t, 2 * width).to(dtype), torch.randn(t, 2 * width).to(dtype)
    x = torch.randn(t, width).to(dtype)
    weights = [torch.randn(n, rank, width), torch.randn(n, 2 * width, rank)]
    weights += [torch.randn(n, rank), torch.randn(n, 2 * width)] if full else []

    def computed(kind: torch.dtype, fast: bool) -> list[Tensor]:
        leaves = [leaf.detach().clone().requires_grad_() for leaf in (start.to(kind), x.to(kind))]
        leaves += [weight.clone().requires_grad_() for weight in weights]
        y, read, *own = leaves
        if fast:
            total = way(low_rank(own, lengths), y, read)
        else:
            act = F.silu if full else None
            total = y + reference.low_rank(read, own, lengths, SCALES, act)
        assert total.dtype == kind
        (total * target.to(kind)).sum().backward()
        grads = [leaf.grad for leaf in leaves]
        assert all(
            grad is not None and grad.dtype == leaf.dtype
            for grad, leaf in zip(grads, leaves, strict=True)
        )
        return [total.detach(), *(grad for grad in grads if grad is not None)]

    for fast, plain in zip(computed(dtype, True), computed(torch.float32, False), strict=True):
        assert (fast.float() - plain).norm() / plain.norm() < tolerance


def test_gradients_pass_frozen_weights() -> None:
    torch.manual_seed(0)
    x, weights = (
        torch.randn(5, 32, requires_grad=True),
        [torch.randn(2, 3, 32), torch.randn(2, 32, 3)],
    )
    low_rank(weights, [2, 3]).add(torch.zeros(5, 32), x, 0).sum().backward()
    copy = x.detach().requires_grad_()
    reference.low_rank(copy, weights, [2, 3], SCALES, None).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, copy.grad)
    assert all(weight.grad is None for weight in weights)


@pytest.mark.parametrize("lengths", TRAFFIC.values(), ids=TRAFFIC.keys())
@pytest.mark.parametrize("full", [False, True], ids=["lora", "bottleneck"])
@pytest.mark.parametrize("width", [12, 32], ids=["odd", "whole vectors"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_low_rank_in_place_equals_the_loop(
    lengths: list[int], full: bool, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    n, t = len(lengths), sum(lengths)
    weights = [torch.randn(n, 3, width), torch.randn(n, width, 3)]
    weights += [torch.randn(n, 3), torch.randn(n, width)] if full else []
    x = torch.randn(t, width)
    expected = x + reference.low_rank(x, weights, lengths, SCALES, F.silu if full else None)
    y = x.to(dtype)
    with torch.inference_mode():
        found = low_rank(weights, lengths).add(y, y, 0)
    assert found.data_ptr() == y.data_ptr()
    assert (y.float() - expected).norm() / expected.norm() < tolerance


def test_ranks_may_differ_within_a_group() -> None:
    torch.manual_seed(0)
    ranks = (1, 4, 2, 8, 11, 24)
    downs, ups = [torch.randn(1, r, 6) for r in ranks], [torch.randn(1, 5, r) for r in ranks]
    inner, outer = [torch.randn(1, r) for r in ranks], [torch.randn(1, 5) for _ in ranks]
    x, zero, segments = torch.randn(18, 6), torch.zeros(18, 5), Segments([3] * 6)
    for biases in (False, True):
        both = (StackedWeights(inner, -1), StackedWeights(outer, -1), F.gelu) if biases else ()
        kernel = LowRank(
            segments, StackedWeights(downs, -2), StackedWeights(ups, -1), (1.0,) * 6, *both
        )
        with torch.inference_mode():
            in_place = kernel.add(zero.clone(), x, 0)
        for y in (kernel.add(zero, x, 0), in_place):
            for g in range(6):
                own = slice(3 * g, 3 * g + 3)
                thin, thick = (b[g][0] if biases else None for b in (inner, outer))
                thin = F.linear(x[own], downs[g][0], thin)
                expected = F.linear(F.gelu(thin) if biases else thin, ups[g][0], thick)
                torch.testing.assert_close(y[own], expected)


EVERYWHERE: list[tuple[list[int], int | None]] = [
    (lengths, None) for lengths in [*TRAFFIC.values(), [3, 60, 4, 59, 5]]
]
NEARBY: list[tuple[list[int], int | None]] = [
    ([3, 60, 4, 59, 5], 7),
    ([150, 7, 1, 64, 65], 20),
    ([9, 3], 0),
    ([9, 130], 129),
]
LONG: list[tuple[list[int], int | None]] = [([5, 800, 769], None)]
"""Lengths of sequences and the window of their attention."""


@pytest.mark.parametrize(("lengths", "window"), EVERYWHERE + NEARBY + LONG)
@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("width", [8, 64], ids=["padded", "compiled"])
def test_packed_attention_equals_the_loop_forward_and_backward(
    lengths: list[int], window: int | None, with_prefix: bool, width: int
) -> None:
    torch.manual_seed(0)
    t, heads, scaling = sum(lengths), 2, (width // 2) ** -0.5
    sizes = [(n % 3) * 4 if with_prefix else 0 for n in range(len(lengths))]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    leaves = [torch.randn(t, width) for _ in range(3)]
    leaves += [torch.randn(sum(sizes), width) for _ in range(2)]
    target, results = torch.randn(t, width), []
    for fast in (True, False):
        q, k, v, pk, pv = (leaf.clone().requires_grad_() for leaf in leaves)
        if fast:
            plan = AttentionPlan.of(
                lengths, list(zip(starts, sizes, strict=True)) if with_prefix else None
            )
            keys, values = torch.cat([k, pk]), torch.cat([v, pv])
            y = packed_attention(q, keys, values, plan, heads, scaling, window)
        else:
            prefix = [
                (pk[a : a + n], pv[a : a + n]) if n else None
                for a, n in zip(starts, sizes, strict=True)
            ]
            y = reference.attention(q, k, v, lengths, heads, prefix, window)
        (y * target).sum().backward()
        results.append([y, q.grad, k.grad, v.grad] + ([pk.grad, pv.grad] if sum(sizes) else []))
    for fast_one, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("lengths", "window"), EVERYWHERE + NEARBY + LONG)
@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_packed_attention_without_gradients_equals_the_loop(
    lengths: list[int],
    window: int | None,
    with_prefix: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    torch.manual_seed(0)
    t, heads, width = sum(lengths), 3, 96
    sizes = [(n % 3) * 9 if with_prefix else 0 for n in range(len(lengths))]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    q, k, v = (torch.randn(t, width).to(dtype) for _ in range(3))
    pk, pv = (torch.randn(sum(sizes), width).to(dtype) for _ in range(2))
    spans = list(zip(starts, sizes, strict=True))
    filler = torch.randn(3, width).to(dtype)  # padding, which no token attends to
    with torch.inference_mode():
        y = packed_attention(
            torch.cat([q, filler]),
            torch.cat([k, filler, pk]),
            torch.cat([v, filler, pv]),
            AttentionPlan.of(lengths, spans if with_prefix else None, padded_tokens=t + 3),
            heads,
            32**-0.5,
            window,
        )
    assert y.dtype == dtype
    assert y.isfinite().all()
    prefix = [(pk[a : a + n].float(), pv[a : a + n].float()) if n else None for a, n in spans]
    full = q.float(), k.float(), v.float()
    expected = reference.attention(*full, lengths, heads, prefix, window)
    assert (y[:t].float() - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("lengths", [TRAFFIC["skewed"], TRAFFIC["tile edges"], [3, 60, 4, 59, 5]])
@pytest.mark.parametrize("sizes", [[0, 0, 0, 0, 0, 0], [0, 4, 17, 0, 16, 1]], ids=["", "prefix"])
@pytest.mark.parametrize("width", [8, 64], ids=["padded", "compiled"])
def test_a_relative_bias_is_added_to_scores_forward_and_backward(
    lengths: list[int], sizes: list[int], width: int
) -> None:
    torch.manual_seed(0)
    sizes, heads, scaling = sizes[: len(lengths)], 2, (width // 2) ** -0.5
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    values = 2 * torch.randn(heads, 2 * max(lengths) - 1)
    leaves = [torch.randn(sum(lengths), width) for _ in range(3)]
    leaves += [torch.randn(sum(sizes), width) for _ in range(2)]
    spans = list(zip(starts, sizes, strict=True))
    target, results = torch.randn(sum(lengths), width), []
    for fast in (True, False):
        q, k, v, pk, pv = (leaf.clone().requires_grad_() for leaf in leaves)
        if fast:
            inputs = q, torch.cat([k, pk]), torch.cat([v, pv]), AttentionPlan.of(lengths, spans)
            y = packed_attention(*inputs, heads, scaling, bias=RelativeBias(values))
        else:
            prefix = [(pk[a : a + n], pv[a : a + n]) if n else None for a, n in spans]
            y = reference.attention(q, k, v, lengths, heads, prefix, bias=values)
        (y * target).sum().backward()
        results.append([y, q.grad, k.grad, v.grad] + ([pk.grad, pv.grad] if sum(sizes) else []))
    for fast_one, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, plain, rtol=1e-5, atol=1e-5)


def test_a_relative_bias_for_shorter_sequences_or_in_a_window_is_refused() -> None:
    q, bias, plan = torch.randn(7, 16), RelativeBias(torch.randn(1, 11)), AttentionPlan.of([7])
    with pytest.raises(ValueError, match="7 tokens, but relative positions of 6"):
        packed_attention(q, q, q, plan, 1, 0.25, bias=bias)
    with pytest.raises(ValueError, match="not computed within a window"):
        packed_attention(q, q, q, plan, 1, 0.25, 3, RelativeBias(torch.randn(1, 13)))


def test_scores_far_apart_do_not_overflow() -> None:
    torch.manual_seed(0)
    q, k, v = (scale * torch.randn(40, 16) for scale in (100.0, 100.0, 1.0))
    plan = AttentionPlan.of([40])
    with torch.inference_mode():
        y = packed_attention(q, k, v, plan, 1, 0.25)
    expected = ((q @ k.T * 0.25).softmax(-1)) @ v
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_attention_is_computed_in_full_precision_under_autocast() -> None:
    """torch's half-precision attention on a CPU is several times slower, and coarser."""
    plan, results = AttentionPlan.of([3, 60, 5], None), []
    torch.manual_seed(0)
    leaves, target = [torch.randn(68, 32) for _ in range(3)], torch.randn(68, 32)
    for enabled in (False, True):
        q, k, v = (leaf.clone().requires_grad_() for leaf in leaves)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = packed_attention(q, k, v, plan, 2, 0.5)
        (y * target).sum().backward()
        results.append([y, q.grad, k.grad, v.grad])
    for plain, cast in zip(*results, strict=True):
        torch.testing.assert_close(cast, plain, rtol=0, atol=0)


@pytest.mark.parametrize("width", [4, 32], ids=["padded", "compiled"])
def test_sequences_may_share_one_prefix(width: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(7, width) for _ in range(3))
    target, plan = torch.randn(7, width), AttentionPlan.of([3, 4], [(0, 2), (0, 2)])
    prefix, results = torch.randn(2, 2, width), []
    for fast in (True, False):
        pk, pv = (one.clone().requires_grad_() for one in prefix)
        if fast:
            keys, values = torch.cat([k, pk]), torch.cat([v, pv])
            y = packed_attention(q, keys, values, plan, 1, width**-0.5)
        else:
            y = reference.attention(q, k, v, [3, 4], 1, [(pk, pv), (pk, pv)])
        (y * target).sum().backward()
        results.append([y, pk.grad, pv.grad])
    for fast_one, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, plain, rtol=1e-5, atol=1e-5)


def test_dropout_does_not_depend_on_how_a_batch_is_split() -> None:
    lengths = [3, 5, 2, 4]
    ones = [torch.ones(n, 6) for n in lengths]
    whole = Dropout([DropoutSeed(11, lengths, [0, 1, 2, 3])])
    together = [whole.drop_tokens(torch.cat(ones), 0.5), whole.drop_tokens(torch.cat(ones), 0.5)]
    parts: list[list[torch.Tensor]] = [[], []]
    for rows in ([2, 0], [3], [1]):
        dropout = Dropout([DropoutSeed(11, lengths, rows)])
        for draw in parts:
            draw.append(dropout.drop_tokens(torch.cat([ones[row] for row in rows]), 0.5))
    starts = [0, 3, 8, 10]
    for draw, expected in zip(parts, together, strict=True):
        found = torch.cat(draw)
        again = torch.cat([expected[starts[r] : starts[r] + lengths[r]] for r in (2, 0, 3, 1)])
        assert torch.equal(found, again)
    assert not torch.equal(*together)


def test_dropout_keeps_the_mean_and_drops_its_rate() -> None:
    x = Dropout([DropoutSeed(0, [4000], [0])]).drop_tokens(torch.ones(4000, 10), 0.25)
    assert abs(float((x == 0).float().mean()) - 0.25) < 0.01
    assert abs(float(x.mean()) - 1.0) < 0.02
