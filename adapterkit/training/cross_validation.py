"""Cross-validation: the scores of a recipe with each fold in turn as validation rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import mean, stdev
from typing import Any

from accelerate import PartialState

from ..adapter.adapter import Adapter
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..backbone.packing import Pooling
from ..errors import RecipeError
from ..tasks.types import Row
from .checkpoint import CheckpointPlace
from .duplicates import across
from .partial_results import PartialResults
from .plan import Plan, Rows, load_rows_once
from .processes import join_processes
from .recipe import Recipe
from .train import load_backbone, train_part

log = logging.getLogger("adapterkit")

FOLDS = 5
"""Number of folds if the recipe names none."""


def cross_validate(
    recipe: Recipe,
    backbone: Backbone | None = None,
    *,
    store: Store | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains one adapter for each fold, scores it on that fold, and keeps none of them.

    Every adapter is trained for all epochs and scored after the last: the score would be too good
    if the epoch were chosen on the fold itself. Test rows are not used. The set of labels comes
    from all folds.

    Args:
        recipe: The recipe; `data.folds` is the number of folds, and each is `data.fold` once.
        backbone: A loaded backbone; if omitted, the recipe's backbone is loaded.
        store: The store in which the recipe's `on_top_of` is looked up by name, and where the
            results so far are kept until the end; if omitted, none are kept.
        resume: Go on from the results that an interrupted cross-validation has left in the store.
        progress: Show progress bars.

    Returns:
        `folds` (fold, rows and metrics of each), and over the folds the `mean` and the standard
        deviation `std` (n - 1) of each metric that every fold has.

    Raises:
        AdapterkitError: Recipe, data or backbone do not allow the training, or the results in the
            store are of another recipe, of other rows or of another backbone.
        TrainingInterruptedError: SIGINT or SIGTERM ended a training, with a checkpoint.
    """
    if recipe.task.tunable_key:
        raise RecipeError(
            f"task.{recipe.task.tunable_key}: it would be tuned on the very rows that judge it; "
            "give a number to cross-validate"
        )
    if store is None and resume:
        raise RecipeError("resume: results are kept in a store; give one (store=)")
    recipes = _fold_recipes(recipe)
    rows = load_rows_once(recipes)
    if backbone is None:
        backbone = load_backbone([recipe])
    if join_processes(recipe, cpu=backbone.device.type == "cpu").is_main_process:
        _warn_of_copies(recipe, [one["validation"] for one in rows])
    recipes = _with_all_labels(recipes, rows[0], backbone.pooling)
    folds = _fold_results(list(zip(recipes, rows, strict=True)), backbone, store, resume, progress)
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


def _warn_of_copies(recipe: Recipe, folds: Sequence[Sequence[Row]]) -> None:
    """Warns of rows that were trained on as well when their fold was scored."""
    copies = across(folds, recipe.task)
    if copies:
        row, other = copies[0]
        log.warning(
            f"{recipe.name}: {len(copies)} of {sum(map(len, folds))} rows have the text of a row "
            f"in another fold ({row.where} and {other.where}), so the scores are too good; leave "
            "copies out"
        )


def _fold_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe of each fold."""
    is_share = isinstance(recipe.data.validation, float)
    validation = None if is_share else recipe.data.validation
    n_folds = recipe.data.folds or FOLDS
    data = replace(recipe.data, folds=n_folds, validation=validation)
    training = replace(recipe.training, keep_best=False, patience=None)
    recipe = replace(recipe, training=training)
    return [replace(recipe, data=replace(data, fold=fold)) for fold in range(n_folds)]


def _with_all_labels(recipes: Sequence[Recipe], rows: Rows, pooling: Pooling) -> list[Recipe]:
    """The recipes of the folds with the labels of all folds.

    Args:
        recipes: The recipes.
        rows: The rows of any fold.
        pooling: The pooling of the backbone.
    """
    task = recipes[0].task.fit([*rows["train"], *rows["validation"]], pooling)
    return [replace(recipe, task=task) for recipe in recipes]


def _fold_results(
    folds: Sequence[tuple[Recipe, Rows]],
    backbone: Backbone,
    store: Store | None,
    resume: bool,
    progress: bool,
) -> list[dict[str, Any]]:
    """The result of each fold; the arguments are as in `cross_validate`."""

    def train(recipe: Recipe, rows: Rows, place: CheckpointPlace | None) -> dict[str, Any]:
        adapter = train_part(recipe, backbone, rows, store, place, progress=progress)
        return _fold_result(adapter, recipe)

    if store is None:
        return [train(recipe, rows, None) for recipe, rows in folds]
    first, rows = folds[0]
    plan = Plan.of(first, backbone, store, rows=rows)
    is_main = PartialState().is_main_process
    results = PartialResults(store, "cross-validate", plan, resume=resume, is_main_process=is_main)
    found = [
        results.result(f"fold-{recipe.data.fold}", partial(train, recipe, rows))
        for recipe, rows in folds
    ]
    results.remove()
    return found


def _fold_result(adapter: Adapter, recipe: Recipe) -> dict[str, Any]:
    """Fold, number of rows and metrics of an adapter that was trained on all folds but one."""
    rows = adapter.training["rows"]
    return {
        "fold": recipe.data.fold,
        "rows": {name: rows[name] for name in ("train", "validation")},
        "metrics": adapter.metrics["validation"],
    }
