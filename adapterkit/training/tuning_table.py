"""The trials of a search, as lines and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..text_table import table
from .search_space import Value

BEST = 10
"""Most trials in a table."""


@dataclass(frozen=True)
class FinishedTrial:
    """One trial of a search.

    Attributes:
        number: Counted from 0.
        state: complete, pruned or failed.
        score: The main metric on the validation rows; that of the last epoch if it was pruned, None
            if there is none.
        epochs: Epochs that it was trained.
        values: Its values by key.
        reason: Why it failed.
    """

    number: int
    state: str
    score: float | None
    epochs: int
    values: Mapping[str, Value]
    reason: str | None = None


def tuning_table(trials: Sequence[FinishedTrial], metric: str) -> str:
    """The best trials as a table, and how many there were.

    Args:
        trials: All trials.
        metric: Name of the metric that they are compared by.
    """
    scored = [trial for trial in trials if trial.score is not None]
    best = sorted(scored, key=lambda t: (t.state != "complete", -(t.score or 0.0), t.number))[:BEST]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    rows = [
        [
            str(trial.number),
            f"{trial.score:.4f}",
            f"{trial.epochs}{' (pruned)' if trial.state == 'pruned' else ''}",
            *(value_text(trial.values.get(key)) for key in keys),
        ]
        for trial in best
    ]
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("pruned", "failed") if s in states)
    return "\n".join(
        [
            table(["trial", f"validation {metric}", "epochs", *keys], rows),
            f"the best {len(best)} of {len(trials)} trials" + (f" ({counts})" if counts else ""),
        ]
    )


def trial_text(trial: FinishedTrial) -> str:
    """A trial as one line."""
    values = ", ".join(f"{key} {value_text(value)}" for key, value in trial.values.items())
    if trial.reason is not None:
        return f"trial {trial.number}: failed ({trial.reason}); {values}"
    end = f", pruned after epoch {trial.epochs}" if trial.state == "pruned" else ""
    score = "no score" if trial.score is None else f"{trial.score:.4f}"
    return f"trial {trial.number}: {score}{end}; {values}"


def value_text(value: Value) -> str:
    """A value in lines and tables."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
