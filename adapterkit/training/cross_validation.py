"""Cross-validation: the scores of a recipe with each fold in turn as validation rows."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..backbone.packing import Pooling
from ..errors import RecipeError
from .recipe import Recipe
from .train import load_backbone, train

FOLDS = 5
"""Number of folds if the recipe names none."""


def cross_validate(
    recipe: Recipe, backbone: Backbone | None = None, *, progress: bool = True
) -> dict[str, Any]:
    """Trains one adapter for each fold, scores it on that fold, and keeps none of them.

    Every adapter is trained for all epochs and scored after the last: the score would be too good
    if the epoch were chosen on the fold itself. Test rows are not used. The set of labels comes
    from all folds.

    Args:
        recipe: The recipe; `data.folds` is the number of folds, and each is `data.fold` once.
        backbone: A loaded backbone; if omitted, the recipe's backbone is loaded.
        progress: Show progress bars.

    Returns:
        `folds` (fold, rows and metrics of each), and over the folds the `mean` and the standard
        deviation `std` (n - 1) of each metric that every fold has.

    Raises:
        AdapterkitError: Recipe, data or backbone do not allow the training.
    """
    if recipe.task.tunable_key:
        raise RecipeError(
            f"task.{recipe.task.tunable_key}: it would be tuned on the very rows that judge it; "
            "give a number to cross-validate"
        )
    if backbone is None:
        backbone = load_backbone([recipe])
    recipes = _fold_recipes(recipe, backbone.pooling)
    folds = [_fold_result(train(one, backbone, progress=progress), one) for one in recipes]
    scores = {
        name: [fold["metrics"][name] for fold in folds]
        for name in folds[0]["metrics"]
        if all(name in fold["metrics"] for fold in folds)
    }
    return {
        "name": recipe.name,
        "folds": folds,
        "mean": {name: mean(values) for name, values in scores.items()},
        "std": {name: stdev(values) for name, values in scores.items()},
    }


def _fold_recipes(recipe: Recipe, pooling: Pooling) -> list[Recipe]:
    """The recipe of each fold, all with the labels of all folds.

    Args:
        recipe: The recipe.
        pooling: The pooling of the backbone.
    """
    is_share = isinstance(recipe.data.validation, float)
    validation = None if is_share else recipe.data.validation
    n_folds = recipe.data.folds or FOLDS
    data = replace(recipe.data, folds=n_folds, validation=validation)
    splits = data.load(recipe.folder, recipe.training.seed, recipe.task)
    task = recipe.task.fit([*splits["train"], *splits["validation"]], pooling)
    training = replace(recipe.training, keep_best=False, patience=None)
    fitted = replace(recipe, task=task, training=training)
    return [replace(fitted, data=replace(data, fold=fold)) for fold in range(n_folds)]


def _fold_result(adapter: Adapter, recipe: Recipe) -> dict[str, Any]:
    """Fold, number of rows and metrics of an adapter that was trained on all folds but one."""
    rows = adapter.training["rows"]
    return {
        "fold": recipe.data.fold,
        "rows": {name: rows[name] for name in ("train", "validation")},
        "metrics": adapter.metrics["validation"],
    }
