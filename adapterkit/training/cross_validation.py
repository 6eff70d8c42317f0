"""Cross-validation: how a recipe scores when each fold in turn is the validation rows."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from ..backbone.model import Backbone
from ..errors import RecipeError
from .recipe import Recipe
from .train import load_backbone, train

FOLDS = 5
"""Where the recipe does not say how many."""


def cross_validate(
    recipe: Recipe, backbone: Backbone | None = None, *, progress: bool = True
) -> dict[str, Any]:
    """Trains one adapter for each fold, scores it on that fold, and keeps none of them.

    Every fold trains all epochs and is scored after the last: an epoch chosen on the fold itself
    would flatter it. The test rows are left alone. Which labels there are is learnt from all folds.

    Args:
        recipe: The recipe; `data.folds` says how many, and each is `data.fold` once.
        backbone: An already loaded backbone in place of the recipe's.
        progress: Show progress bars.

    Returns:
        `folds` (fold, rows and metrics of each), and over them the `mean` and the standard
        deviation `std` (n - 1) of each metric that every fold has.

    Raises:
        AdapterkitError: Recipe, data or backbone do not allow it.
    """
    if recipe.task.tunable_key:
        raise RecipeError(
            f"task.{recipe.task.tunable_key}: it would be tuned on the very rows that judge it; "
            "give a number to cross-validate"
        )
    if backbone is None:
        backbone = load_backbone(recipe)
    drawn = isinstance(recipe.data.validation, float)
    data = replace(
        recipe.data,
        folds=recipe.data.folds or FOLDS,
        validation=None if drawn else recipe.data.validation,
    )
    splits = data.load(recipe.folder, recipe.training.seed, recipe.task)
    task = recipe.task.fit([*splits["train"], *splits["validation"]], backbone.pooling)
    settings = replace(recipe.training, keep_best=False, patience=None)
    plan = replace(recipe, task=task, training=settings)
    folds: list[dict[str, Any]] = []
    for fold in range(data.folds or FOLDS):
        adapter = train(replace(plan, data=replace(data, fold=fold)), backbone, progress=progress)
        folds.append(
            {
                "fold": fold,
                "rows": {name: adapter.training["rows"][name] for name in ("train", "validation")},
                "metrics": adapter.metrics["validation"],
            }
        )
    told = [name for name in folds[0]["metrics"] if all(name in e["metrics"] for e in folds)]
    scores = {name: [entry["metrics"][name] for entry in folds] for name in told}
    return {
        "name": recipe.name,
        "folds": folds,
        "mean": {name: mean(values) for name, values in scores.items()},
        "std": {name: stdev(values) for name, values in scores.items()},
    }
