"""Trainings of every kind whose state is more than their weights, and their comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapterkit.adapter.adapter import Adapter
from adapterkit.training.recipe import Recipe
from helpers.joint_training import assert_same_weights, recipe_for, with_changes, write_rows

LORA = {"type": "lora", "dropout": 0.2}
PISSA = {"type": "lora", "init_lora_weights": "pissa"}
DROPOUT = {"type": "classification", "pooling": "mean", "dropout": 0.3}


def record(adapter: Adapter) -> dict[str, Any]:
    """The training record without times."""
    log = [{k: v for k, v in entry.items() if k != "time"} for entry in adapter.training["log"]]
    return {k: v for k, v in adapter.training.items() if k != "seconds"} | {"log": log}


def assert_same(found: Adapter, expected: Adapter) -> None:
    """Bit for bit, with every loss and score."""
    for one, other in zip(found.members, expected.members, strict=True):
        assert_same_weights(one, other)
    assert record(found) == record(expected)
    assert found.metrics == expected.metrics


def recipes(kind: str, folder: Path) -> list[Recipe]:
    (folder / "synonyms.csv").write_text("word,synonym\nmoney,fee\nrain,sun\nbank,card\n")
    one = recipe_for("one", write_rows(1, 50), LORA, DROPOUT, epochs=3, seed=3)
    augmented = with_changes(
        recipe_for("varied", write_rows(2, 40), LORA, DROPOUT, epochs=3, accumulation=3),
        augmentation={
            "token_dropout": 0.2,
            "synonyms": str(folder / "synonyms.csv"),
            "replace": 0.5,
        },
    )
    ensemble = recipe_for("crowd", write_rows(3, 30), {"type": "prefix"}, epochs=3, ensemble=3)
    adversarial = recipe_for("moved", write_rows(4, 30), LORA, epochs=3, adversarial=0.5)
    principal = recipe_for("principal", write_rows(6, 30), PISSA, epochs=3)
    patient = recipe_for(
        "patient", write_rows(5, 30), {"type": "bottleneck"}, epochs=9, patience=1, batch_size=5
    )
    return {
        "one": [one],
        "augmented": [augmented],
        "ensemble": [ensemble],
        "adversarial": [adversarial],
        "patience": [patient],
        "principal": [principal],
        "side by side": [one, augmented, ensemble, adversarial, patient],
    }[kind]
