"""One recipe trained by several methods and by full fine-tuning: scores, sizes and times."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean, stdev
from typing import Any

from accelerate import PartialState

from ..adapter.adapter import Adapter
from ..adapter.folder import adapter_files
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..errors import RecipeError
from ..methods.base import check_method_name, methods
from .checkpoint import CheckpointPlace
from .full_finetuning import check_tunable, fine_tune
from .partial_results import PartialResults
from .plan import HELD_OUT, Plan, Rows, load_rows_once
from .recipe import Recipe
from .train import load_backbone, train_part

log = logging.getLogger("adapterkit")

FULL = "full"
"""Name of full fine-tuning in lists of methods."""


@dataclass(frozen=True)
class Trial:
    """The result of one training by one method.

    Attributes:
        settings: Settings of the method; none of full fine-tuning.
        n_parameters: Number of trained parameters.
        share: Their share of all parameters that are used to answer.
        n_bytes: Bytes of the adapter's folder; of all weights in full fine-tuning.
        seconds: How long it took.
        scores: The task's main metric by split.
    """

    settings: Mapping[str, Any]
    n_parameters: int
    share: float
    n_bytes: int
    seconds: float
    scores: Mapping[str, float]


def compare(
    recipe: Recipe,
    names: Sequence[str],
    seeds: int = 1,
    *,
    store: Store | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains a recipe by several methods, each with the same head, data, epochs and seeds.

    The recipe's own method keeps its settings and learning rate; the others have their defaults.
    The score is the task's main metric on the test rows, or on the validation rows if there are
    no test rows. Nothing is published.

    Args:
        recipe: The recipe.
        names: Names of methods, and `full` for full fine-tuning of the same backbone.
        seeds: Number of trainings of each: with the recipe's seed and those that follow it.
        store: The store in which the recipe's `on_top_of` is looked up by name, and where the
            results so far are kept until the end; if omitted, none are kept.
        resume: Go on from the results that an interrupted comparison has left in the store.
        progress: Show progress bars.

    Returns:
        `name`, `metric`, `split`, `rows`, and in `methods` for each: `method`, `settings`,
        `parameters`, `share`, `bytes`, `seconds` (mean), `scores` (one a seed), `mean`, `std`
        (n - 1; None of one seed), `validation` (mean over the seeds, to choose by: test rows that
        chose a method flatter it; None where the score is that or there are no such rows) and
        `against_full` (difference of the means; None without `full`).

    Raises:
        RecipeError: A method is not known, or there are no rows to score.
        AdapterkitError: Recipe, data or backbone do not allow the training, or the results in the
            store are of another recipe, of other rows or of another backbone.
        TrainingInterruptedError: SIGINT or SIGTERM ended a training, with a checkpoint.
    """
    _check_comparable(recipe, names, seeds)
    if store is None and resume:
        raise RecipeError("resume: results are kept in a store; give one (store=)")
    seeded = [_with_seed(recipe, recipe.training.seed + n) for n in range(seeds)]
    rows = dict(zip((one.training.seed for one in seeded), load_rows_once(seeded), strict=True))
    counted = rows[recipe.training.seed]
    split = next((part for part in reversed(HELD_OUT) if part in counted), None)
    if split is None:
        raise RecipeError("data: there are no validation or test rows to compare by")
    backbone = load_backbone([recipe])
    comparison = _Comparison(backbone, rows, store, resume, progress)
    trials = comparison.trials(recipe, names)
    found = [_summary(name, trials[name], split) for name in names]
    reference = next((entry["mean"] for entry in found if entry["method"] == FULL), None)
    for entry in found:
        entry["against_full"] = None if reference is None else entry["mean"] - reference
    return {
        "name": recipe.name,
        "metric": recipe.task.main_metric,
        "split": split,
        "rows": {name: len(part) for name, part in counted.items()},
        "seeds": list(rows),
        "methods": found,
    }


def method_names(recipe: Recipe | None = None) -> list[str]:
    """The methods that `compare` takes: every registered one, then `full` for full fine-tuning.

    A method that needs saved adapters is one of them only if it is the recipe's, which names them.

    Args:
        recipe: The recipe to compare by.
    """
    own = None if recipe is None else recipe.method.type
    known = [name for name, kind in methods().items() if kind.parent_type is None or name == own]
    return [*known, FULL]


def check_names(names: Sequence[str], recipe: Recipe) -> None:
    """Refuses what is no method, is there twice, or needs adapters that the recipe does not name.

    Raises:
        RecipeError: One is.
    """
    known = method_names(recipe)
    for name in names:
        check_method_name(name, [*methods(), FULL])
        if name not in known:
            raise RecipeError(
                f"the method '{name}' needs saved adapters; compare it by a recipe of that method, "
                "which names them"
            )
        if names.count(name) > 1:
            raise RecipeError(f"the method '{name}' is there twice; give each once")
    if not names:
        raise RecipeError(f"there is no method to compare; give some of {', '.join(known)}")


def _check_comparable(recipe: Recipe, names: Sequence[str], seeds: int) -> None:
    """Refuses what cannot be compared, before anything is loaded.

    Raises:
        RecipeError: A method is not known, or the recipe or the number of seeds does not allow it.
    """
    check_names(names, recipe)
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


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(recipe, training=replace(recipe.training, seed=seed))


@dataclass(frozen=True)
class _Comparison:
    """What the trainings of a comparison share.

    Attributes:
        backbone: The frozen backbone.
        rows: The rows by the seed of a training.
        store: As in `compare`.
        resume: As in `compare`.
        progress: As in `compare`.
    """

    backbone: Backbone
    rows: Mapping[int, Rows]
    store: Store | None
    resume: bool
    progress: bool

    def trials(self, recipe: Recipe, names: Sequence[str]) -> dict[str, list[Trial]]:
        """Trains a recipe by some methods, with every seed; results that are kept are removed at
        the end."""
        results = self._partial_results(recipe)
        trials: dict[str, list[Trial]] = {}
        for name in names:
            for seed in self.rows:
                own = _with_seed(_by(recipe, name), seed)
                if self.progress and len(self.rows) > 1:
                    log.info(f"{name}, seed {seed}")
                found = self._trial(own, name, results)
                trials.setdefault(name, []).append(found)
        if results is not None:
            results.remove()
        return trials

    def _partial_results(self, recipe: Recipe) -> PartialResults | None:
        if self.store is None:
            return None
        plan = Plan.of(recipe, self.backbone, self.store, rows=self.rows[recipe.training.seed])
        is_main = PartialState().is_main_process
        return PartialResults(
            self.store, "compare", plan, resume=self.resume, is_main_process=is_main
        )

    def _trial(self, recipe: Recipe, name: str, results: PartialResults | None) -> Trial:
        if results is None:
            return self._train(recipe, name, None)
        part = f"{name}-{recipe.training.seed}"
        return Trial(**results.result(part, lambda place: asdict(self._train(recipe, name, place))))

    def _train(self, recipe: Recipe, name: str, place: CheckpointPlace | None) -> Trial:
        rows = self.rows[recipe.training.seed]
        if name == FULL:
            full = fine_tune(recipe, rows, place, progress=self.progress)
            # A folder would hold every weight in float32.
            return _trial_of(full.adapter, {}, full.n_parameters, 1.0, 4 * full.n_parameters)
        adapter = train_part(recipe, self.backbone, rows, self.store, place, progress=self.progress)
        n_bytes = sum(map(len, adapter_files(adapter, self.backbone.geometry).values()))
        own, settings = adapter.n_trained_parameters, adapter.training["recipe"]["method"]
        share = own / (adapter.n_parameters + self.backbone.n_parameters)
        return _trial_of(adapter, settings, own, share, n_bytes)


def _trial_of(
    adapter: Adapter, settings: Mapping[str, Any], n_parameters: int, share: float, n_bytes: int
) -> Trial:
    """The trial of a trained adapter; the other arguments are its attributes.

    Raises:
        RecipeError: The rows of a split leave its main metric undefined.
    """
    metric = adapter.task.main_metric
    undefined = [split for split, metrics in adapter.metrics.items() if metric not in metrics]
    if undefined:
        raise RecipeError(f"the {undefined[0]} rows leave {metric} undefined; give others")
    scores = {split: metrics[metric] for split, metrics in adapter.metrics.items()}
    return Trial(settings, n_parameters, share, n_bytes, adapter.training["seconds"], scores)


def _summary(name: str, trials: Sequence[Trial], split: str) -> dict[str, Any]:
    scores = [trial.scores[split] for trial in trials]
    validation = [
        trial.scores["validation"]
        for trial in trials
        if split != "validation" and "validation" in trial.scores
    ]
    return {
        "method": name,
        "settings": trials[0].settings,
        "parameters": trials[0].n_parameters,
        "share": trials[0].share,
        "bytes": trials[0].n_bytes,
        "seconds": mean(trial.seconds for trial in trials),
        "scores": scores,
        "mean": mean(scores),
        "std": stdev(scores) if len(scores) > 1 else None,
        "validation": mean(validation) if validation else None,
    }
