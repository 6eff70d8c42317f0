"""The section `search` of a recipe."""

from __future__ import annotations

from typing import Any

import pytest

from adapterkit import Recipe
from adapterkit.training.search_space import Choice, Range, SearchSpace, with_values

CONTENT: dict[str, Any] = {"name": "a/b", "data": {"path": "t.csv"}, "method": {"r": 4}}


def recipe(search: Any) -> Recipe:
    return Recipe.of({**CONTENT, "search": search})


def test_ranges_and_lists_are_read() -> None:
    space = recipe(
        {
            "training.learning_rate": {"low": "1e-4", "high": 1e-2, "log": True},
            "training.epochs": {"low": 3, "high": 9, "step": 2},
            "method.r": [4, 8],
            "training.patience": [None, 2],
        }
    ).search
    assert space.ranges["training.learning_rate"] == Range(1e-4, 1e-2, log=True)
    assert space.ranges["training.epochs"] == Range(3, 9, step=2)
    assert space.ranges["method.r"] == Choice((4, 8))
    assert SearchSpace.of(space.plain()) == space
    assert "search" not in recipe(space.plain()).plain(), "a training does not depend on it"


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("training.learnig_rate", [1e-3], "no such key; did you mean 'learning_rate'"),
        ("trainig.epochs", [3], "search.trainig.epochs: expected a key such as"),
        ("trainig.epochs", [3], "did you mean 'training'"),
        ("epochs", [3], "search.epochs: expected a key such as training.learning_rate"),
        ("method.num_virtual_tokens", [3], "method.num_virtual_tokens: there is no such key"),
        ("method.r", [4, 0], "search.method.r: with 0, method.r: expected 1 or more, got 0"),
        ("method.r", {"low": 1, "high": 2.5}, "method.r: expected a whole number, got 2.5"),
        ("method.r", {"low": 1, "hihg": 2}, "search.method.r.hihg: there is no such key"),
        ("method.r", {"low": 1}, "search.method.r.high: this key is required"),
        ("method.r", {"low": 8, "high": 4}, "search.method.r.low: 8 is not below high, 4"),
        ("method.r", {"low": 1, "high": 4, "step": 0.5}, "search.method.r.step: 0.5 is no whole"),
        ("method.r", {"low": 1, "high": 4, "step": 9}, "search.method.r.step: 9 is not from 0"),
        ("method.r", [], "search.method.r: expected {low: ..., high: ...} or a list"),
        ("method.r", 4, "search.method.r: expected {low: ..., high: ...} or a list"),
        ("method.r", [4, 4], "search.method.r: 4 is there twice"),
        ("method.targets", [["query"]], "search.method.targets: expected single values"),
        ("method.dropout", {"low": 0, "high": 0.2, "log": True}, "dropout.low: 0 has no logarithm"),
        (
            "training.learning_rate",
            {"low": 0.1, "high": 0.2, "log": True, "step": 0.1},
            "search.training.learning_rate.step: does not go with log: true",
        ),
        ("training.mixed_precision", ["no", "bf16"], "all trials must have the same"),
        ("data.path", ["a", "b"], "search.data.path: expected a key such as"),
    ],
)
def test_a_wrong_range_is_refused_with_its_key(key: str, values: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"^search") as error:
        recipe({key: values})
    assert words in str(error.value)


def test_a_key_of_a_kind_is_not_searched_beside_the_kind() -> None:
    with pytest.raises(ValueError, match=r"^search\.method\.r: cannot be searched beside search\."):
        recipe({"method.type": ["lora", "prefix"], "method.r": [1, 2]})


def test_values_change_a_content_and_a_kind_takes_its_keys_away() -> None:
    content = {**CONTENT, "search": {"method.r": [1]}, "training": {"epochs": 3}}
    assert with_values(content, {"method.r": 8, "training.seed": 2, "task.dropout": 0.1}) == {
        **CONTENT,
        "method": {"r": 8},
        "training": {"epochs": 3, "seed": 2},
        "task": {"dropout": 0.1},
    }
    typed = {**content, "method": {"type": "lora", "r": 4}}
    assert with_values(typed, {"method.type": "prefix"})["method"] == {"type": "prefix"}
    assert with_values(typed, {"method.type": "lora"})["method"] == {"type": "lora", "r": 4}
    assert typed["method"] == {"type": "lora", "r": 4}


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        (Range(1, 9, step=2), [1, 3, 9], [0, 2, 10, 3.0, True, None, "3"]),
        (Range(0.1, 0.5), [0.1, 0.25, 0.5], [0.05, 0.6, None]),
        (Range(0.1, 0.5, step=0.1), [0.1, 0.3], [0.25]),
        (Choice((1, "a", None)), [1, "a", None], [1.0, True, "b"]),
    ],
)
def test_a_range_knows_its_values(values: Any, inside: list[Any], outside: list[Any]) -> None:
    assert [value in values for value in inside] == [True] * len(inside)
    assert [value in values for value in outside] == [False] * len(outside)
