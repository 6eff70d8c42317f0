"""The plot of a search: the score of every trial, and against every value that was searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from .figure import ACCENT, BLUE, GRID, INK, TITLE, new_figure, png

WIDE = 3
"""Panels in a row."""

MOST_PANELS = 9
"""Most keys that have a panel."""

DECADE = 10.0
"""A panel has a logarithmic axis if its largest number is more than this times its smallest."""


def plot_trials(result: Mapping[str, Any]) -> bytes:
    """The trials of a search as PNG: filled points have ended, empty ones were pruned.

    Args:
        result: `SearchResult.plain()`.
    """
    trials = [trial for trial in result["trials"] if trial["score"] is not None]
    keys = list(dict.fromkeys(key for trial in trials for key in trial["values"]))[:MOST_PANELS]
    n_rows = -(-len(keys) // WIDE)
    figure = new_figure(7.6, 2.8 + 2.3 * n_rows)
    grid = figure.add_gridspec(1 + n_rows, WIDE, height_ratios=[1.2, *[1.0] * n_rows])
    top = figure.add_subplot(grid[0, :])
    _draw(top, trials, [trial["number"] for trial in trials], result["best"]["number"])
    ended = [trial for trial in trials if trial["state"] == "complete"]
    best = list(accumulate((trial["score"] for trial in ended), max))
    top.step([trial["number"] for trial in ended], best, where="post", color=ACCENT, linewidth=1.0)
    top.set_xlabel("trial", color=INK)
    top.set_ylabel(f"validation {result['metric']}", color=INK, fontsize=9)
    name, score = result["name"], result["best"]["score"]
    title = (
        f"{name}, {len(result['trials'])} trials (best: {result['best']['number']}, {score:.3f})"
    )
    top.set_title(title, **TITLE)
    for index, key in enumerate(keys):
        panel = figure.add_subplot(grid[1 + index // WIDE, index % WIDE], sharey=top)
        having = [trial for trial in trials if key in trial["values"]]
        places = _places(panel, [trial["values"][key] for trial in having])
        _draw(panel, having, places, result["best"]["number"])
        panel.set_xlabel(key, color=INK, fontsize=9)
        panel.tick_params(labelsize=8)
    return png(figure)


def _draw(
    axes: Any, trials: Sequence[Mapping[str, Any]], places: Sequence[float], best: int
) -> None:
    """Draws a point for each trial at its place, and a ring around the best one."""
    for trial, place in zip(trials, places, strict=True):
        filled = trial["state"] == "complete"
        style = {"color": BLUE, "markersize": 5, "fillstyle": "full" if filled else "none"}
        axes.plot([place], [trial["score"]], "o", alpha=0.8 if filled else 0.5, **style)
        if trial["number"] == best:
            ring = {"markersize": 11, "fillstyle": "none", "color": ACCENT}
            axes.plot([place], [trial["score"]], "o", **ring)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _places(axes: Any, values: Sequence[Any]) -> list[float]:
    """Where values stand on the axis of a panel: numbers at their place, others in a row."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        if min(numbers) > 0 and max(numbers) > DECADE * min(numbers):
            axes.set_xscale("log")
        return [float(number) for number in numbers]
    names = sorted({str(value) for value in values})
    axes.set_xticks(range(len(names)), names)
    axes.margins(x=0.2)
    return [float(names.index(str(value))) for value in values]
