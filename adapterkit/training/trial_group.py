"""Trials of a search that train side by side, in this process or in another one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from ..adapter.store import Store
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from .plan import Rows, load_rows
from .pruning import Pruning
from .recipe import Recipe
from .train import StoppedError, load_backbone, train_many

log = logging.getLogger("adapterkit")


class Judge(Protocol):
    """Decides after each epoch whether a trial goes on. A trial of Optuna is one."""

    def report(self, value: float, step: int) -> None:
        """Takes the validation score of an epoch, counted from 1."""

    def should_prune(self) -> bool:
        """Whether the trial is given up."""


@dataclass
class MedianJudge:
    """Gives a trial up as Optuna's median pruner does, by the trials that had ended before.

    Attributes:
        medians: Median of the scores of earlier trials by epoch, for the epochs that decide.
        scores: Scores of this trial by epoch.
    """

    medians: Mapping[int, float]
    scores: dict[int, float] = field(default_factory=dict)

    def report(self, value: float, step: int) -> None:
        """Takes the validation score of an epoch."""
        self.scores[step] = value

    def should_prune(self) -> bool:
        """Whether the best score so far is below the median of the last epoch."""
        median = self.medians.get(max(self.scores))
        return median is not None and max(self.scores.values()) < median


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial has ended.

    Attributes:
        score: The main metric on the validation rows; None if it was pruned or has failed.
        epochs: Number of epochs that it was trained.
        fault: Why it has failed.
    """

    score: float | None = None
    epochs: int = 0
    fault: str | None = None


def train_trials(
    recipes: Sequence[Recipe],
    backbone: Backbone,
    rows: Rows,
    judges: Mapping[str, Judge],
    follow: Callable[[int], object],
    store: Store | None = None,
) -> dict[str, TrialOutcome]:
    """Trains trials side by side.

    Args:
        recipes: The recipe of each, whose name is its label.
        backbone: Their backbone.
        rows: Their rows.
        judges: What decides about each, by label.
        follow: Called after every epoch with its number.
        store: The store of the adapters that the recipes name.

    Returns:
        The outcome of each, by label.

    Raises:
        AdapterkitError: They cannot be trained together.
    """
    pruning, faults = Pruning(judges, follow), dict[str, str]()
    with _errors_only():
        try:
            adapters = train_many(
                recipes,
                backbone,
                rows={recipe.name: rows for recipe in recipes},
                parents=store,
                callbacks=[pruning],
                progress=False,
            )
        except StoppedError as error:
            adapters, faults = error.finished, error.faults
        except AdapterkitError as error:
            if len(recipes) > 1:
                raise
            adapters, faults = [], {recipes[0].name: str(error)}
    outcomes = {label: TrialOutcome(fault=fault) for label, fault in faults.items()}
    for adapter in adapters:
        epochs, metric = len(adapter.training["history"]), adapter.task.main_metric
        score = adapter.metrics["validation"].get(metric)
        if adapter.name in pruning.pruned:
            outcomes[adapter.name] = TrialOutcome(None, epochs)
        elif score is None:
            fault = f"the validation rows leave {metric} undefined"
            outcomes[adapter.name] = TrialOutcome(None, epochs, fault)
        else:
            outcomes[adapter.name] = TrialOutcome(score, epochs)
    return outcomes


@dataclass(frozen=True)
class TrialGroup:
    """Trials that are sent to another process.

    Attributes:
        recipes: The recipe of each, whose name is its label.
        medians: As in `MedianJudge`.
        fingerprint: Of the backbone of the search.
        store: Folder or URL of the store of the adapters that the recipes name.
    """

    recipes: Sequence[Recipe]
    medians: Mapping[int, float]
    fingerprint: str
    store: str | None = None


@dataclass(frozen=True)
class GroupOutcome:
    """What another process sends back.

    Attributes:
        outcomes: The outcome of each trial, by label.
        scores: Its scores by epoch, by label.
    """

    outcomes: Mapping[str, TrialOutcome]
    scores: Mapping[str, Mapping[int, float]]


def train_group(group: TrialGroup) -> GroupOutcome:
    """Trains a group of trials in a process of its own, which reads rows and backbone itself.

    Raises:
        AdapterkitError: They cannot be trained together, or on the backbone of the recipe.
    """
    judges = {recipe.name: MedianJudge(group.medians) for recipe in group.recipes}
    rows = without_test(load_rows(group.recipes[0]))
    backbone = load_backbone(group.recipes)
    if backbone.fingerprint != group.fingerprint:
        raise AdapterkitError(
            f"the workers load the recipe's backbone '{backbone.name}', and the search was given "
            "another one; name it in the recipe (backbone.model)"
        )
    store = None if group.store is None else Store(group.store)
    outcomes = train_trials(group.recipes, backbone, rows, judges, follow=int, store=store)
    return GroupOutcome(outcomes, {label: judge.scores for label, judge in judges.items()})


def without_test(rows: Rows) -> Rows:
    """The rows that trials may see."""
    return {name: part for name, part in rows.items() if name != "test"}


@contextmanager
def _errors_only() -> Iterator[None]:
    """Stops messages that each trial would repeat."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
