"""The study of a search: Optuna's trials, in memory or in one SQLite file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..errors import RecipeError
from .recipe import Recipe
from .search_space import Value
from .tuning_table import FinishedTrial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

ORIGIN, REASON, EPOCHS = "origin", "reason", "epochs"
"""Names of attributes in the file of a study: what it belongs to; why a trial failed, and how many
epochs it was trained."""

WARM_UP = 1
"""Epochs after which no trial is pruned yet."""

FIRST_UNPRUNED = 5
"""Trials that end before any is pruned, which is when there is a median to compare with."""


@contextmanager
def exclusive(file: Path | None) -> Iterator[None]:
    """Keeps other processes from the file of a search meanwhile: they would take the trials that
    are under way for those of a killed process.

    Args:
        file: The SQLite file, as in `open_study`.

    Raises:
        RecipeError: Another process searches with it.
    """
    if file is None:
        yield
        return
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RecipeError(
            f"{file}: another process searches with this file; wait for it, or give another file "
            "(--study)"
        ) from None
    except OSError as error:
        raise RecipeError(f"{file}: cannot be used as the file of a search ({error})") from None
    try:
        yield
    finally:
        lock.release()


def open_study(recipe: Recipe, file: Path | None, origin: Mapping[str, Any]) -> Study:
    """The study of a search, new or from its file.

    Args:
        recipe: The recipe.
        file: The SQLite file; None keeps the trials in memory.
        origin: What the search depends on, as plain data.

    Raises:
        RecipeError: The file is of another search, or is not the file of a study.
    """
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=None if file is None else f"sqlite:///{file}",
            study_name=recipe.name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(FIRST_UNPRUNED, WARM_UP),
        )
        trials = study.trials
    except Exception as error:  # of SQLite through SQLAlchemy
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{file}: cannot be used as the file of a search ({reason})") from None
    saved = study.user_attrs.get(ORIGIN)
    if saved is None:
        study.set_user_attr(ORIGIN, dict(origin))
    elif saved != origin:
        differing = ", ".join(key for key in origin if saved.get(key) != origin[key])
        raise RecipeError(
            f"{file}: has the trials of another search (other {differing}); go on as it began, or "
            "give another file (--study)"
        )
    # A start draws other values than the starts before it.
    study.sampler = optuna.samplers.TPESampler(
        seed=recipe.training.seed + len(trials), constant_liar=True
    )
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # a process was killed; they are trained again
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    if not trials and (own := _own_values(recipe)) is not None:
        study.enqueue_trial(own)
    return study


def _own_values(recipe: Recipe) -> dict[str, Value] | None:
    """The recipe's own values of the keys that are searched; None if one is not in its range."""
    plain = recipe.plain()
    rates = ("learning_rate", "head_learning_rate")
    defaults = {f"training.{name}": getattr(recipe.method, name) for name in rates}
    found = {}
    for path, values in recipe.search.ranges.items():
        section, _, key = path.partition(".")
        value = plain[section][key]
        found[path] = defaults.get(path) if value is None else value
        if found[path] not in values:
            return None
    return found


def _has_ended(trial: FrozenTrial) -> bool:
    from optuna.trial import TrialState

    killed = trial.state == TrialState.FAIL and REASON not in trial.user_attrs
    return trial.state.is_finished() and not killed


def finished_trials(study: Study) -> list[FinishedTrial]:
    """The trials that have ended, in order."""
    return [finished_trial(trial) for trial in study.trials if _has_ended(trial)]


def median_scores(study: Study) -> dict[int, float]:
    """By epoch the median score of the trials that were trained to their end, as Optuna's median
    pruner compares with; empty while they are too few."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FIRST_UNPRUNED:
        return {}
    scores: dict[int, list[float]] = {}
    for trial in complete:
        for epoch, score in trial.intermediate_values.items():
            scores.setdefault(epoch, []).append(score)
    return {epoch: median(found) for epoch, found in scores.items() if epoch >= WARM_UP}


def finished_trial(trial: FrozenTrial) -> FinishedTrial:
    """A trial of Optuna that has ended."""
    from optuna.trial import TrialState

    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    last = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    return FinishedTrial(
        number=trial.number,
        state=states.get(trial.state, "failed"),
        score=trial.value if trial.state == TrialState.COMPLETE else last,
        epochs=trial.user_attrs.get(EPOCHS, 0),
        values=dict(trial.params),
        reason=trial.user_attrs.get(REASON),
    )
