"""Disentangled attention: torch's groups and the compiled loop against a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adapterkit.ops.attention_plan import AttentionPlan
from adapterkit.ops.disentangled import PositionTable, disentangled_attention
from adapterkit.ops.position_plan import PositionPlan

LENGTHS, PREFIX = [3, 9, 1, 4], [(0, 2), (2, 3), (0, 0), (0, 2)]
N_BUCKETS = 12
BUCKETS = {
    "shared buckets": [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 11, 11, 11],
    "a bucket a distance": [0, 0, 0, *range(11), 11, 11, 11],
}
"""The bucket of each distance of up to nine tokens; in the second, the texts of up to four have one
for each."""


def by_distance(
    leaves: dict[str, Tensor], bucket: Tensor, lengths: list[int], prefix: list[tuple[int, int]]
) -> Tensor:
    """Disentangled attention of one head, number by number.

    The bucket of i - j is at N - 1 + i - j. Tables may have a row for each bucket, or such rows for
    each sequence, `[N, M, d]`.
    """
    q, k, v, pk, pv, to_keys, to_queries = leaves.values()
    lines, start = [], 0
    for number, (n, (first, count)) in enumerate(zip(lengths, prefix, strict=True)):
        for i in range(start, start + n):
            scores = [q[i] @ pk[p] for p in range(first, first + count)]
            for j in range(start, start + n):
                b = bucket[(len(bucket) - 1) // 2 + i - j]
                rows = [x[b] if x.ndim == 2 else x[number, b] for x in (to_keys, to_queries)]
                scores.append(q[i] @ k[j] + q[i] @ rows[0] + rows[1] @ k[j])
            values = torch.cat([pv[first : first + count], v[start : start + n]])
            lines.append(torch.stack(scores).mul(0.3).softmax(-1) @ values)
        start += n
    return torch.stack(lines)


def random_leaves(d: int, is_own: bool) -> dict[str, Tensor]:
    """Inputs of `by_distance` for `LENGTHS`."""
    torch.manual_seed(0)
    shapes = {"q": 17, "k": 17, "v": 17, "pk": 5, "pv": 5}
    leaves = {name: torch.randn(n, d) for name, n in shapes.items()}
    for name in ("keys", "queries"):
        leaves[name] = torch.randn(4, N_BUCKETS, d) if is_own else torch.randn(N_BUCKETS, d)
    return leaves


def packed(leaves: dict[str, Tensor], bucket: Tensor, is_own: bool) -> Tensor:
    """The same by `disentangled_attention`."""
    positions = PositionPlan(AttentionPlan.of(LENGTHS, PREFIX), bucket)
    q, k, v, pk, pv, *both = leaves.values()
    if is_own:
        owner = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS)).repeat(2)
        both = [x[owner, positions.own_buckets] for x in both]
    keys, queries = (PositionTable(rows, is_own) for rows in both)
    inputs = q, torch.cat([k, pk]), torch.cat([v, pv]), positions, (keys, queries)
    return disentangled_attention(*inputs, 1, 0.3)


every_table = pytest.mark.parametrize(
    "is_own", [False, True], ids=["one table", "a table a sequence"]
)
every_bucket = pytest.mark.parametrize("buckets", BUCKETS.values(), ids=BUCKETS.keys())


@every_table
@every_bucket
def test_it_equals_the_loop_forward_and_backward(
    buckets: list[int], is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that a group is divided.
    monkeypatch.setattr("adapterkit.ops.position_plan.MOST_SCORES", 100)
    leaves, bucket, results = random_leaves(4, is_own), torch.tensor(buckets), []
    target = torch.randn(17, 4)
    for fast in (True, False):
        own = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        y = packed(own, bucket, is_own) if fast else by_distance(own, bucket, LENGTHS, PREFIX)
        (y * target).sum().backward()
        results.append([y, *(leaf.grad for leaf in own.values())])
    for fast_one, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, plain, rtol=1e-5, atol=1e-5)


@every_table
@every_bucket
def test_the_compiled_loop_equals_the_plain_loop(buckets: list[int], is_own: bool) -> None:
    leaves, bucket = random_leaves(16, is_own), torch.tensor(buckets)
    found = packed(leaves, bucket, is_own)
    torch.testing.assert_close(
        found, by_distance(leaves, bucket, LENGTHS, PREFIX), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("terms", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("is_own", [False, True], ids=["one table", "a table a sequence"])
def test_the_compiled_loop_equals_torch_in_texts_of_several_tiles(
    terms: tuple[bool, bool], is_own: bool
) -> None:
    """Gradients are computed by torch's groups, so an input that needs one gets them."""
    torch.manual_seed(0)
    lengths, prefixes, d = [300, 17, 1, 140], [(0, 3), (3, 150), (0, 0), (0, 3)], 32
    distances = torch.arange(-299, 300)
    far = (distances.abs() - 20).clamp(min=0).div(3, rounding_mode="floor").clamp(max=9)
    buckets = distances.sign() * (distances.abs().clamp(max=20) + far) + 29
    plan = AttentionPlan.of(lengths, prefixes, padded_tokens=464)
    positions = PositionPlan(plan, buckets)
    q, k, v = torch.randn(464, d), torch.randn(617, d), torch.randn(617, d)
    keys, queries = (
        PositionTable(torch.randn(928 if is_own else 59, d), is_own) if term else None
        for term in terms
    )
    compiled, by_torch = (
        disentangled_attention(query, k, v, positions, (keys, queries), 2, 0.2)[:458]
        for query in (q, q.clone().requires_grad_())
    )
    assert not compiled.requires_grad
    assert by_torch.requires_grad
    torch.testing.assert_close(compiled, by_torch.detach(), rtol=1e-5, atol=1e-5)


def test_texts_with_fewer_buckets_than_tokens_need_one_row_a_token() -> None:
    torch.manual_seed(0)
    bucket = torch.arange(-19, 20).clamp(-3, 4) + 3
    positions = PositionPlan(AttentionPlan.of([20, 8, 9]), bucket)
    assert positions.own_buckets.shape == (37,)
    q, k, v = (torch.randn(37, 16) for _ in range(3))
    tables = [torch.randn(8, 16) for _ in range(2)]
    own, shared = (
        [
            PositionTable(table[positions.own_buckets] if is_own else table, is_own)
            for table in tables
        ]
        for is_own in (True, False)
    )
    found, expected = (
        disentangled_attention(q, k, v, positions, (keys, queries), 1, 0.3)
        for keys, queries in (own, shared)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_sequence_is_not_changed_by_another_that_is_not_a_number() -> None:
    leaves, bucket = random_leaves(16, is_own=True), torch.tensor(BUCKETS["shared buckets"])
    expected = packed(leaves, bucket, is_own=True)
    for leaf in (*list(leaves.values())[:3], leaves["keys"], leaves["queries"]):
        leaf[3 if len(leaf) == 17 else 1] = torch.nan
    leaves["q"][3:12] = torch.nan
    found = packed(leaves, bucket, is_own=True)
    kept = [*range(3), *range(12, 17)]
    torch.testing.assert_close(found[kept], expected[kept])
    assert found[3:12].isnan().all()


def test_texts_longer_than_the_distances_are_refused() -> None:
    with pytest.raises(ValueError, match="10 tokens, but distances of 9"):
        PositionPlan(AttentionPlan.of([10]), torch.tensor(BUCKETS["shared buckets"]))
