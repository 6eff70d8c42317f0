"""The kernels against plain loops, over uniform, skewed, single and many-tenant traffic."""

from __future__ import annotations

import pytest
import reference
import torch
import torch.nn.functional as F

from adapterkit.ops import AttentionPlan, Noise, Runs, low_rank, packed_attention, stack_padded

TRAFFIC = {
    "uniform": [8, 8, 8, 8],
    "skewed": [1, 1, 97, 2, 1],
    "one tenant": [50],
    "all distinct": [1] * 40,
    "tile edges": [15, 16, 17, 31, 32, 33],
}


@pytest.mark.parametrize("lengths", TRAFFIC.values(), ids=TRAFFIC.keys())
@pytest.mark.parametrize("full", [False, True], ids=["lora", "bottleneck"])
def test_low_rank_is_the_loop_forward_and_backward(lengths: list[int], full: bool) -> None:
    torch.manual_seed(0)
    n, t = len(lengths), sum(lengths)
    leaves = [torch.randn(t, 12), torch.randn(n, 3, 12), torch.randn(n, 20, 3)]
    leaves += [torch.randn(n, 3), torch.randn(n, 20)] if full else []
    goal = torch.randn(t, 20)
    results = []
    for fast in (True, False):
        x, down, up, *bias = (leaf.clone().requires_grad_() for leaf in leaves)
        if fast:
            biases = {"down_bias": bias[0], "up_bias": bias[1]} if full else {}
            y = low_rank(x, down, up, Runs(lengths), activation=F.silu if full else None, **biases)
        else:
            y = reference.low_rank(x, down, up, lengths, bias, F.silu if full else None)
        (y * goal).sum().backward()
        results.append([y, *(leaf.grad for leaf in (x, down, up, *bias))])
    for fast_one, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, plain, rtol=1e-5, atol=1e-5)


def test_ranks_are_padded_with_zeros_that_change_nothing() -> None:
    torch.manual_seed(0)
    ranks = (1, 4, 2)
    downs, ups = [torch.randn(r, 6) for r in ranks], [torch.randn(5, r) for r in ranks]
    x = torch.randn(9, 6)
    y = low_rank(x, stack_padded(downs, -2), stack_padded(ups, -1), Runs([3, 3, 3]))
    for g in range(3):
        own = slice(3 * g, 3 * g + 3)
        torch.testing.assert_close(y[own], x[own] @ downs[g].T @ ups[g].T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [*TRAFFIC.values(), [3, 60, 4, 59, 5]])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_packed_attention_is_the_loop_forward_and_backward(
    lengths: list[int], with_prefix: bool
) -> None:
    torch.manual_seed(0)
    t, heads, width = sum(lengths), 2, 8
    sizes = [(n % 3) * 4 if with_prefix else 0 for n in range(len(lengths))]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    leaves = [torch.randn(t, width) for _ in range(3)]
    leaves += [torch.randn(sum(sizes), width) for _ in range(2)]
    goal, results = torch.randn(t, width), []
    for fast in (True, False):
        q, k, v, pk, pv = (leaf.clone().requires_grad_() for leaf in leaves)
        if fast:
            plan = AttentionPlan.of(
                lengths, list(zip(starts, sizes, strict=True)) if with_prefix else None
            )
            y = packed_attention(q, torch.cat([k, pk]), torch.cat([v, pv]), plan, heads, 4**-0.5)
        else:
            prefix = [
                (pk[a : a + n], pv[a : a + n]) if n else None
                for a, n in zip(starts, sizes, strict=True)
            ]
            y = reference.attention(q, k, v, lengths, heads, prefix)
        (y * goal).sum().backward()
        results.append([y, q.grad, k.grad, v.grad] + ([pk.grad, pv.grad] if sum(sizes) else []))
    for fast_one, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, plain, rtol=1e-5, atol=1e-5)


def test_sequences_may_share_one_prefix() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(7, 4) for _ in range(3))
    pk, pv = torch.randn(2, 4), torch.randn(2, 4)
    plan = AttentionPlan.of([3, 4], [(0, 2), (0, 2)])
    y = packed_attention(q, torch.cat([k, pk]), torch.cat([v, pv]), plan, 1, 0.5)
    expected = reference.attention(q, k, v, [3, 4], 1, [(pk, pv), (pk, pv)])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_noise_does_not_depend_on_how_a_batch_is_cut() -> None:
    lengths = [3, 5, 2, 4]
    ones = [torch.ones(n, 6) for n in lengths]
    whole = Noise(11, lengths, [0, 1, 2, 3])
    together = [whole.drop_tokens(torch.cat(ones), 0.5), whole.drop_tokens(torch.cat(ones), 0.5)]
    parts: list[list[torch.Tensor]] = [[], []]
    for rows in ([2, 0], [3], [1]):
        noise = Noise(11, lengths, rows)
        for draw in parts:
            draw.append(noise.drop_tokens(torch.cat([ones[row] for row in rows]), 0.5))
    starts = [0, 3, 8, 10]
    for draw, expected in zip(parts, together, strict=True):
        found = torch.cat(draw)
        again = torch.cat([expected[starts[r] : starts[r] + lengths[r]] for r in (2, 0, 3, 1)])
        assert torch.equal(found, again)
    assert not torch.equal(*together)


def test_noise_keeps_the_mean_and_drops_its_share() -> None:
    x = Noise(0, [4000], [0]).drop_tokens(torch.ones(4000, 10), 0.25)
    assert abs(float((x == 0).float().mean()) - 0.25) < 0.01
    assert abs(float(x.mean()) - 1.0) < 0.02
