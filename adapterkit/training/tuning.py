"""Search: many trainings of a recipe with other values, of which the best one is kept.

Optuna (Akiba et al. 2019) proposes the values and keeps the trials in one SQLite file. Trials train
side by side, in groups.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from accelerate.state import PartialState
from tqdm import tqdm

from ..adapter.adapter import Adapter
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..cluster.ray_cluster import RayCluster
from ..data.dataset import fingerprint
from ..errors import RecipeError, TrainingInterruptedError
from .checkpoint import origin_of
from .plan import Plan, Rows, load_rows
from .recipe import Recipe
from .search_space import Value, with_values
from .study import (
    EPOCHS,
    REASON,
    exclusive,
    finished_trial,
    finished_trials,
    median_scores,
    open_study,
)
from .train import load_backbone, train_many
from .trial_group import TrialGroup, TrialOutcome, train_group, train_trials, without_test
from .tuning_table import FinishedTrial, trial_text

if TYPE_CHECKING:
    from optuna.trial import Trial

log = logging.getLogger("adapterkit")

TRIALS = 40
"""Trials of a search if its caller gives no number."""

PARALLEL = 4
"""Trials that train side by side if the caller gives no number."""


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search that are not part of a recipe.

    Attributes:
        trials: Trials in all, those of an earlier start included.
        parallel: Trials that train side by side. More take fewer, larger steps, but the values of a
            trial can only learn from trials that have ended.
        study: SQLite file of the trials; a search that is there goes on. None keeps them in memory.
        progress: Show a progress bar and a line a trial.
    """

    trials: int = TRIALS
    parallel: int = PARALLEL
    study: Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("trials", "parallel"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: expected 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Attributes:
        recipe: The recipe with the values of the best trial.
        adapter: The adapter of that recipe, trained once more, and with scores of the test rows.
        best: The best trial.
        trials: All trials.
        seconds: Time of the trials of this start, without the last training.
    """

    recipe: Recipe
    adapter: Adapter
    best: FinishedTrial
    trials: Sequence[FinishedTrial]
    seconds: float

    @property
    def metric(self) -> str:
        """Name of the metric that the trials are compared by."""
        return self.recipe.task.main_metric

    def plain(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "name": self.recipe.name,
            "metric": self.metric,
            "best": vars(self.best) | {"values": dict(self.best.values)},
            "metrics": self.adapter.metrics,
            "trials": [vars(trial) | {"values": dict(trial.values)} for trial in self.trials],
            "seconds": self.seconds,
        }


def tune(
    recipe: Recipe,
    backbone: Backbone | None = None,
    *,
    trials: int = TRIALS,
    parallel: int = PARALLEL,
    study: str | Path | None = None,
    store: Store | None = None,
    cluster: RayCluster | None = None,
    progress: bool = True,
) -> SearchResult:
    """Searches the best values for the keys in the recipe's section `search`.

    Trials are compared by the main metric on the validation rows and never see the test rows. A
    trial that is below the median of the others after an epoch is given up. At the end the best
    recipe is trained once more, and the test rows are scored once. Nothing is published.

    Args:
        recipe: The recipe, with a section `search`.
        backbone: A loaded backbone; if omitted, the recipe's backbone is loaded.
        trials: Trials in all, those of an earlier start included.
        parallel: Trials that train side by side, in shared steps.
        study: SQLite file of the trials; a search that is there goes on. Without it, an interrupted
            search is lost.
        store: The store in which adapters that the recipe names are looked up, `adapters` if
            omitted; nothing is written in it.
        cluster: A Ray cluster, each worker of which trains `parallel` trials at a time. A trial is
            then compared with those that had ended when its group began.
        progress: Show a progress bar, and a line a trial.

    Raises:
        RecipeError: There is nothing to search or to compare by, the file is of another search or
            used by another process, or Optuna is not installed.
        TrainingInterruptedError: Ctrl-C ended the search; the file has the trials that have ended.
        AdapterkitError: Recipe, data or backbone do not allow the training.
    """
    options = SearchOptions(trials, parallel, Path(study) if study is not None else None, progress)
    check_searchable(recipe)
    rows = load_rows(recipe)
    if "validation" not in rows:
        raise RecipeError("data: there are no validation rows to compare trials by")
    if backbone is None:
        backbone = load_backbone([recipe])
    if PartialState().num_processes > 1:
        raise RecipeError("tune trains side by side in one process; start it without a launcher")
    with exclusive(options.study):
        search = _Search(recipe, backbone, rows, options, store, cluster)
        started = time.perf_counter()
        search.run()
        seconds = time.perf_counter() - started
        found = search.finished()
    complete = [trial for trial in found if trial.state == "complete" and trial.score is not None]
    if not complete:
        reasons = [trial.reason for trial in found if trial.reason]
        raise RecipeError(f"no trial has ended; {reasons[-1] if reasons else 'all were pruned'}")
    best = max(complete, key=lambda trial: (trial.score or 0.0, -trial.number))
    chosen = changed_recipe(recipe, best.values)
    by_name = {recipe.name: rows}
    (adapter,) = train_many([chosen], backbone, rows=by_name, parents=store, progress=progress)
    return SearchResult(chosen, adapter, best, found, round(seconds, 1))


def check_searchable(recipe: Recipe) -> None:
    """Refuses what cannot be searched, before anything is loaded.

    Raises:
        RecipeError: The recipe has no section `search`, or is of an ensemble, or Optuna is missing.
    """
    if not recipe.search:
        raise RecipeError(
            "search: the recipe has no such section; give keys with their values, such as "
            "search: {training.learning_rate: {low: 1e-4, high: 1e-2, log: true}}"
        )
    if recipe.training.ensemble > 1:
        raise RecipeError("training.ensemble: a search compares single adapters; leave it at 1")
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise RecipeError(
            "tune needs Optuna, which is not installed; pip install 'adapterkit[tune]'"
        ) from None


def changed_recipe(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """The recipe with other values of some keys."""
    return Recipe.of(with_values(recipe.plain(), values), recipe.folder)


def _named(recipe: Recipe) -> list[str | None]:
    """The adapters and files that a recipe names beside its rows, which may change meanwhile."""
    training = recipe.training
    synonyms, parents = recipe.augmentation.synonyms, recipe.method.parent_type
    return [training.start_from, training.on_top_of, synonyms, parents]


class _Search:
    """The trials of one search.

    Args:
        recipe: The recipe.
        backbone: Its backbone.
        rows: Its rows.
        options: Number of trials and the file.
        store: The store of the adapters that the recipe names.
        cluster: Where the trials train; in this process if None.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        rows: Rows,
        options: SearchOptions,
        store: Store | None = None,
        cluster: RayCluster | None = None,
    ) -> None:
        self._recipe = recipe
        self._backbone = backbone
        self._rows = without_test(rows)
        self._options = options
        self._store = store
        self._cluster = cluster
        self._at_once = options.parallel * (1 if cluster is None else cluster.n_workers)
        origin = {
            "recipe": recipe.plain(),
            "search": recipe.search.plain(),
            "rows": fingerprint(rows),
            "backbone": backbone.fingerprint,
        }
        if any(_named(recipe)):
            facts = origin_of(Plan.of(recipe, backbone, store, rows=self._rows))
            origin = {**{key: facts[key] for key in facts if facts[key]}, **origin}
        self._study = open_study(recipe, options.study, json.loads(json.dumps(origin)))

    def run(self) -> None:
        """Trains trials until there are as many as were asked for.

        Raises:
            TrainingInterruptedError: Ctrl-C has ended the search.
        """
        total, done = self._options.trials, len(self.finished())
        if done and self._options.progress:
            log.info(f"{self._options.study}: goes on after {done} of {total} trials")
        bar = tqdm(
            total=total,
            initial=min(done, total),
            unit="trial",
            disable=None if self._options.progress else True,
        )
        try:
            while done < total:
                self._train(min(self._at_once, total - done), bar)
                done = len(self.finished())
        except KeyboardInterrupt:
            file = self._options.study
            kept = f"which are in {file}; the same command goes on" if file else "which are lost"
            raise TrainingInterruptedError(
                f"Interrupted after {len(self.finished())} of {total} trials, {kept}", SIGINT
            ) from None
        finally:
            bar.close()

    def finished(self) -> list[FinishedTrial]:
        """The trials that have ended, in order."""
        return finished_trials(self._study)

    def _train(self, n: int, bar: Any) -> None:
        """Trains some trials side by side, here or in groups on the workers of a cluster."""
        trials: dict[str, Trial] = {}
        recipes = []
        for _ in range(n):
            trial = self._study.ask()
            label = f"trial/{trial.number}"
            try:
                found = changed_recipe(self._recipe, self._recipe.search.suggest(trial))
            except ValueError as error:  # values that are valid alone and not together
                self._end(trial, bar, failed=str(error))
                continue
            recipes.append(replace(found, name=label))
            trials[label] = trial
        if not recipes:
            return
        if self._cluster is None:
            outcomes: Mapping[str, TrialOutcome] = train_trials(
                recipes,
                self._backbone,
                self._rows,
                trials,
                lambda epoch: bar.set_postfix(epoch=epoch),
                self._store,
            )
            self._end_all(trials, outcomes, bar)
            return
        size, medians = self._options.parallel, median_scores(self._study)
        store = None if self._store is None else self._store.display_name
        groups = [
            TrialGroup(recipes[start : start + size], medians, self._backbone.fingerprint, store)
            for start in range(0, len(recipes), size)
        ]
        for group in self._cluster.map(train_group, groups):
            for label, scores in group.scores.items():
                for epoch, score in scores.items():
                    trials[label].report(score, step=epoch)
            self._end_all(trials, group.outcomes, bar)

    def _end_all(
        self, trials: Mapping[str, Trial], outcomes: Mapping[str, TrialOutcome], bar: Any
    ) -> None:
        for label, outcome in outcomes.items():
            trials[label].set_user_attr(EPOCHS, outcome.epochs)
            self._end(trials[label], bar, score=outcome.score, failed=outcome.fault)

    def _end(
        self, trial: Trial, bar: Any, *, score: float | None = None, failed: str | None = None
    ) -> None:
        """Saves how a trial has ended: with a score, pruned, or with a fault."""
        from optuna.trial import TrialState

        if failed is not None:
            trial.set_user_attr(REASON, failed)
            self._study.tell(trial, state=TrialState.FAIL)
        elif score is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, score)
        bar.update()
        if self._options.progress:
            with bar.external_write_mode():
                log.info(trial_text(finished_trial(self._study.trials[trial.number])))
