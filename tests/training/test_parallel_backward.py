"""A step in lanes learns what it learns in one piece, and the same in every run."""

from __future__ import annotations

from typing import Any

import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence
from adapterkit.inference.lanes import SERIAL, WorkerLanes
from adapterkit.tasks.types import Example
from adapterkit.training import loop, parallel_backward
from adapterkit.training.batches import MicroBatch
from adapterkit.training.parallel_backward import split_over_lanes
from helpers.joint_training import (
    assert_equals_solo,
    assert_same_weights,
    recipe_for,
    train_alone,
    train_together,
    trained_once,
    varied_recipes,
    write_rows,
)


@pytest.fixture(scope="module")
def two_lanes() -> WorkerLanes:
    return WorkerLanes(2, 1)


@pytest.fixture
def in_lanes(monkeypatch: pytest.MonkeyPatch, two_lanes: WorkerLanes) -> list[int]:
    """Divides every step over two lanes, however small; returns the number of parts of each."""
    counts: list[int] = []

    def counted(*args: Any) -> Any:
        parts = split_over_lanes(*args)
        counts.append(len(parts))
        return parts

    monkeypatch.setattr(parallel_backward, "LEAST_TOKENS", 8)
    monkeypatch.setattr(loop, "lanes_of", lambda device: two_lanes)
    monkeypatch.setattr(loop, "split_over_lanes", counted)
    return counts


def micro_batch(*sizes: int) -> MicroBatch:
    rows = [Example((TokenSequence([7] * n, [0] * n),)) for n in sizes]
    places = list(range(len(sizes)))
    return MicroBatch(rows, places, [1.0 / len(sizes)] * len(sizes), places, list(sizes), 0)


def test_parts_hold_every_row_once_and_as_many_tokens(
    monkeypatch: pytest.MonkeyPatch, two_lanes: WorkerLanes
) -> None:
    monkeypatch.setattr(parallel_backward, "LEAST_TOKENS", 8)
    (short, long) = split_over_lanes({3: micro_batch(9, 2, 3, 8, 4)}, set(), two_lanes)
    assert (short[3].sequence_indices, long[3].sequence_indices) == ([1, 2, 4], [3, 0])
    assert short[3].targets == short[3].sequence_indices
    assert [part.n_tokens for part in (short[3], long[3])] == [9, 17]
    assert [part.batch_lengths for part in (short[3], long[3])] == [[9, 2, 3, 8, 4]] * 2
    first, second = split_over_lanes(
        {0: micro_batch(5, 5), 1: micro_batch(5, 5, 4)}, {1}, two_lanes
    )
    assert (list(first), list(second)) == ([0], [1])
    assert len(split_over_lanes({0: micro_batch(5, 5), 1: micro_batch(5)}, {0, 1}, two_lanes)) == 1
    assert len(split_over_lanes({0: micro_batch(30, 30)}, set(), SERIAL)) == 1


def test_what_is_learnt_is_the_same_in_lanes(
    tiny: Backbone, request: pytest.FixtureRequest
) -> None:
    rows = write_rows(9, 40)
    recipes = [
        *varied_recipes(),
        recipe_for("g", rows, adversarial=0.5),
        recipe_for("h", rows, method={"type": "head"}),
    ]
    recipes.append(
        recipe_for("i", rows, {"type": "lora", "layers": [1]}, ensemble=2, accumulation=2)
    )
    expected = [trained_once(recipe, tiny) for recipe in recipes]
    counts = request.getfixturevalue("in_lanes")
    for recipe, solo in zip(recipes[-3:], expected[-3:], strict=True):
        assert_equals_solo(train_alone(recipe, tiny), solo)
    for together, solo in zip(train_together(recipes, tiny), expected, strict=True):
        assert_equals_solo(together, solo)
    assert 2 * counts.count(2) > len(counts)


def test_lanes_give_the_same_bits_again(tiny: Backbone, in_lanes: list[int]) -> None:
    recipe = recipe_for(
        "a/one", write_rows(1, 60), {"type": "lora", "dropout": 0.2}, accumulation=2
    )
    first, again = train_alone(recipe, tiny), train_alone(recipe, tiny)
    assert_same_weights(first, again)
    assert first.training["losses"] == again.training["losses"]
    assert 2 in in_lanes
