"""Small classification recipes, trained together and alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train, train_many
from helpers.vocabulary import WORDS


def write_rows(seed: int, n: int, name: str | None = None) -> str:
    """Write n rows with words that depend on the label; a tenth are for validation."""
    rng, lines = random.Random(seed), ["text,label,split"]
    for place in range(n):
        label = ("money", "weather", "work")[place % 3]
        shows = {"money": "bank", "weather": "rain", "work": "laptop"}[label]
        words = [shows, *rng.choices(WORDS[:10], k=rng.randint(1, 6))]
        rng.shuffle(words)
        lines.append(f"{' '.join(words)},{label},{'validation' if place % 5 == 0 else 'train'}")
    path = Path(name or f"rows{seed}.csv").resolve()
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def recipe_for(
    name: str, rows: str, method: Any = None, task: Any = None, **training: Any
) -> Recipe:
    return Recipe.of(
        {
            "name": name,
            "data": {"path": rows},
            "task": {"type": "classification", **(task or {})},
            "method": method or {"type": "lora"},
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, **training},
        }
    )


def varied_recipes() -> list[Recipe]:
    """Recipes that differ in everything a tenant may choose."""
    lora = {"type": "lora", "dropout": 0.2}
    return [
        recipe_for("a/one", write_rows(1, 40), lora, {"dropout": 0.3}, seed=4),
        recipe_for(
            "a/two", write_rows(2, 61), {**lora, "r": 3}, {"pooling": "cls"}, epochs=3, seed=5
        ),
        recipe_for("b/clip", write_rows(3, 33), {"type": "lora"}, batch_size=5, clip=0.01),
        recipe_for(
            "b/cosine", write_rows(4, 30), {"type": "prefix"}, schedule="cosine", warmup=0.5
        ),
        recipe_for("c", write_rows(5, 25), {"type": "prefix", "projection": True, "init_std": 0.1}),
        recipe_for("d", write_rows(6, 50), {"type": "bottleneck", "size": 4}, accumulation=3),
        recipe_for("e", write_rows(7, 45), {"type": "bottleneck"}, epochs=9, patience=1, seed=8),
        recipe_for("f", write_rows(8, 20), keep_best=False, weight_decay=0.3, batch_size=64),
    ]


def train_together(recipes: list[Recipe], backbone: Backbone, **options: Any) -> list[Adapter]:
    return train_many(recipes, backbone, progress=False, **options)


def train_alone(recipe: Recipe, backbone: Backbone) -> Adapter:
    return train(recipe, backbone, progress=False)


_trained: dict[tuple[str, bytes, str], Adapter] = {}


def trained_once(recipe: Recipe, backbone: Backbone) -> Adapter:
    """`train_alone`, cached: equal recipes with equal rows are trained once in a process."""
    content = recipe.plain()
    rows = Path(content["data"].pop("path")).read_bytes()
    key = json.dumps(content, sort_keys=True), rows, backbone.fingerprint
    if key not in _trained:
        _trained[key] = train_alone(recipe, backbone)
    return _trained[key]


def assert_equals_solo(together: Adapter, solo: Adapter) -> None:
    """Losses and scores to 1e-4, the same epochs and checks; tensors to 1e-3, since Adam makes a
    full step of a gradient that is all rounding, and other draws would move them by 1e-2."""
    assert together.name == solo.name
    assert together.method == solo.method
    mine, theirs = together.training, solo.training
    for (step, loss), (other_step, other) in zip(mine["losses"], theirs["losses"], strict=True):
        assert step == other_step
        assert loss == pytest.approx(other, rel=1e-4, abs=1e-4)
    assert mine["epoch"] == theirs["epoch"]
    assert len(mine["history"]) == len(theirs["history"])
    for entry, expected in zip(mine["history"], theirs["history"], strict=True):
        assert entry["learning_rate"] == expected["learning_rate"]
        assert entry["validation"] == pytest.approx(expected["validation"], abs=1e-4)
    for split, scores in solo.metrics.items():
        assert together.metrics[split] == pytest.approx(scores, abs=1e-4)
    assert_same_weights(together, solo, tolerance=1e-3)


def with_changes(recipe: Recipe, **sections: Any) -> Recipe:
    content = recipe.plain()
    for key, changes in sections.items():
        content[key] = {**content[key], **changes} if isinstance(changes, dict) else changes
    return Recipe.of(content)


def assert_same_weights(one: Adapter, other: Adapter, tolerance: float = 0.0) -> None:
    for mine, theirs in ((one.tensors, other.tensors), (one.head, other.head)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=tolerance, atol=tolerance)
