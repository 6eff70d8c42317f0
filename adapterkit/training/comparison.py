"""One recipe trained by several methods and by full fine-tuning: scores, sizes and times."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from ..adapter.adapter import Adapter
from ..adapter.folder import adapter_files
from ..backbone.model import Backbone
from ..errors import RecipeError
from ..methods.base import check_method_name, methods
from .full_finetuning import check_tunable, fine_tune
from .plan import HELD_OUT
from .recipe import Recipe
from .train import load_backbone, train

log = logging.getLogger("adapterkit")

FULL = "full"
"""Name of full fine-tuning in lists of methods."""


@dataclass(frozen=True)
class Trial:
    """The result of one training by one method.

    Attributes:
        adapter: The trained adapter.
        n_parameters: Number of trained parameters.
        share: Their share of all parameters that are used to answer.
        n_bytes: Bytes of the adapter's folder; of all weights in full fine-tuning.
    """

    adapter: Adapter
    n_parameters: int
    share: float
    n_bytes: int


def compare(
    recipe: Recipe, names: Sequence[str], seeds: int = 1, *, progress: bool = True
) -> dict[str, Any]:
    """Trains a recipe by several methods, each with the same head, data, epochs and seeds.

    The recipe's own method keeps its settings and learning rate; the others have their defaults.
    The score is the task's main metric on the test rows, or on the validation rows if there are
    no test rows. Nothing is published.

    Args:
        recipe: The recipe.
        names: Names of methods, and `full` for full fine-tuning of the same backbone.
        seeds: Number of trainings of each: with the recipe's seed and those that follow it.
        progress: Show progress bars.

    Returns:
        `name`, `metric`, `split`, `rows`, and in `methods` for each: `method`, `settings`,
        `parameters`, `share`, `bytes`, `seconds` (mean), `scores` (one a seed), `mean`, `std`
        (n - 1; None of one seed), `validation` (mean over the seeds, to choose by: test rows that
        chose a method flatter it; None where the score is that or there are no such rows) and
        `against_full` (difference of the means; None without `full`).

    Raises:
        RecipeError: A method is not known, or there are no rows to score.
        AdapterkitError: Recipe, data or backbone do not allow the training.
    """
    _check_comparable(recipe, names, seeds)
    rows = recipe.data.load(recipe.folder, recipe.training.seed, recipe.task)
    split = next((part for part in reversed(HELD_OUT) if part in rows), None)
    if split is None:
        raise RecipeError("data: there are no validation or test rows to compare by")
    backbone = load_backbone([recipe])
    found = []
    for name in names:
        trials = list(_trials(_by(recipe, name), name, backbone, seeds, progress))
        found.append(_summary(name, trials, split, recipe.task.main_metric))
    reference = next((entry["mean"] for entry in found if entry["method"] == FULL), None)
    for entry in found:
        entry["against_full"] = None if reference is None else entry["mean"] - reference
    return {
        "name": recipe.name,
        "metric": recipe.task.main_metric,
        "split": split,
        "rows": {name: len(part) for name, part in rows.items()},
        "seeds": [recipe.training.seed + n for n in range(seeds)],
        "methods": found,
    }


def method_names() -> list[str]:
    """The methods that `compare` takes: every registered one, then `full` for full fine-tuning."""
    return [*methods(), FULL]


def check_names(names: Sequence[str]) -> None:
    """Refuses what is no method, or is there twice.

    Raises:
        RecipeError: One is.
    """
    known = method_names()
    for name in names:
        check_method_name(name, known)
        if names.count(name) > 1:
            raise RecipeError(f"the method '{name}' is there twice; give each once")
    if not names:
        raise RecipeError(f"there is no method to compare; give some of {', '.join(known)}")


def _check_comparable(recipe: Recipe, names: Sequence[str], seeds: int) -> None:
    """Refuses what cannot be compared, before anything is loaded.

    Raises:
        RecipeError: A method is not known, or the recipe or the number of seeds does not allow it.
    """
    check_names(names)
    if seeds < 1:
        raise RecipeError(f"seeds: expected at least 1, got {seeds}")
    if recipe.training.ensemble > 1:
        raise RecipeError(
            "training.ensemble: methods are compared by single adapters; leave it at 1 "
            "(--set training.ensemble=1)"
        )
    if FULL in names:
        check_tunable(recipe)


def _by(recipe: Recipe, name: str) -> Recipe:
    """The recipe by a method: with its own settings where it is the recipe's, else the defaults.

    A learning rate is a method's matter, so one that the recipe gives goes with its own alone.
    """
    if name == recipe.method.type:
        return recipe
    training = replace(recipe.training, learning_rate=None, head_learning_rate=None)
    method = recipe.method if name == FULL else methods()[name]()
    return replace(recipe, method=method, training=training)


def _trials(
    recipe: Recipe, name: str, backbone: Backbone, seeds: int, progress: bool
) -> Iterator[Trial]:
    for number in range(seeds):
        seed = recipe.training.seed + number
        seeded = replace(recipe, training=replace(recipe.training, seed=seed))
        if progress and seeds > 1:
            log.info(f"{name}, seed {seed}")
        if name == FULL:
            full = fine_tune(seeded, progress=progress)
            # A folder would hold every weight in float32.
            yield Trial(full.adapter, full.n_parameters, 1.0, 4 * full.n_parameters)
        else:
            adapter = train(seeded, backbone, progress=progress)
            n_bytes = sum(map(len, adapter_files(adapter, backbone.geometry).values()))
            own = adapter.n_parameters
            yield Trial(adapter, own, own / (own + backbone.n_parameters), n_bytes)


def _summary(name: str, trials: Sequence[Trial], split: str, metric: str) -> dict[str, Any]:
    scores = [trial.adapter.metrics[split][metric] for trial in trials]
    validation = [
        found["validation"][metric]
        for found in (trial.adapter.metrics for trial in trials)
        if split != "validation" and "validation" in found
    ]
    recipe = trials[0].adapter.training["recipe"]
    return {
        "method": name,
        "settings": {} if name == FULL else recipe["method"],
        "parameters": trials[0].n_parameters,
        "share": trials[0].share,
        "bytes": trials[0].n_bytes,
        "seconds": mean(trial.adapter.training["seconds"] for trial in trials),
        "scores": scores,
        "mean": mean(scores),
        "std": stdev(scores) if len(scores) > 1 else None,
        "validation": mean(validation) if validation else None,
    }
