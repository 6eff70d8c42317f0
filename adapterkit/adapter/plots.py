"""Plots as PNG: learning curve, predicted numbers, comparison of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .figure import ACCENT, BLUE, GRID, INK, add_title, new_figure, png

NAME_WIDTH, NAME_HEIGHT = 130, 17
"""Pixels of the name of a point."""


def learning_curve(name: str, metric: str, training: Mapping[str, Any]) -> bytes:
    """Losses, and above them the main validation metric, over the steps; of every member of an
    ensemble, with the first in front.

    Args:
        name: Name of the adapter.
        metric: Name of the main metric.
        training: The training record.
    """
    records = [*training.get("members", []), training]
    scored = any(_scores(record, metric) for record in records)
    figure = new_figure(6.4, 4.4 if scored else 2.8)
    panels = figure.subplots(2 if scored else 1, sharex=True, squeeze=False)[:, 0]
    for record in records:
        style = {"alpha": 1.0 if record is training else 0.3, "linewidth": 1.2}
        names = ["training", "validation"] if record is training else ["_", "_"]
        below = panels[-1]
        below.plot(*_columns(record.get("losses", [])), color=BLUE, label=names[0], **style)
        losses = _columns(_scores(record, "loss"))
        if losses[0]:
            below.plot(*losses, ".-", color=ACCENT, markersize=5, label=names[1], **style)
        if scored:
            points = _scores(record, metric)
            panels[0].plot(*_columns(points), "o-", color=ACCENT, markersize=4, **style)
            kept = [y for x, y in points if x == _kept_step(record)]
            ring = {"markersize": 10, "fillstyle": "none", "color": ACCENT, **style}
            panels[0].plot([_kept_step(record)] * len(kept), kept, "o", **ring)
    title = f"{name}, {len(records)} members" if len(records) > 1 else name
    if scored:
        panels[0].set_ylabel(f"validation {metric}", color=INK)
        panels[0].set_ylim(*_score_range([y for r in records for _, y in _scores(r, metric)]))
        score = dict(_scores(training, metric)).get(_kept_step(training))
        value = "" if score is None else f", {score:.3f}"
        title += f" (kept: epoch {training['epoch']}{value})"
    add_title(figure, title)
    panels[-1].set_xlabel("step", color=INK)
    panels[-1].set_ylabel("loss", color=INK)
    panels[-1].set_ylim(bottom=0)
    panels[-1].legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper right")
    for panel in panels:
        panel.grid(color=GRID, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _scores(record: Mapping[str, Any], metric: str) -> list[tuple[float, float]]:
    """Step and validation score of the epochs that have one."""
    return [
        (entry["step"], entry["validation"][metric])
        for entry in record["history"]
        if metric in entry.get("validation", {})
    ]


def _kept_step(record: Mapping[str, Any]) -> float:
    """The step after which the kept epoch ended."""
    steps = {entry["epoch"]: entry["step"] for entry in record["history"]}
    return float(steps[record["epoch"]])


def _score_range(scores: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis of scores that show small differences as small: at least half of the range
    from 0 to 1, or from -1 to 1, for scores in it."""
    low, high = min(scores), max(scores)
    least, most = (0.0 if low >= 0 else -1.0), 1.0
    if low < least or high > most:  # a score of another unit
        room = 0.1 * ((high - low) or abs(high) or 1.0)
        return low - room, high + room
    half = (least + most) / 2
    margin = 0.03 * (most - least)
    return (half if low >= half else least) - margin, most + margin


def _columns(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def scatter(title: str, pairs: Sequence[tuple[float, float]]) -> bytes:
    """Predicted numbers against the right ones, with the line on which they are equal.

    Args:
        title: Title of the plot.
        pairs: Right and predicted number of each row.
    """
    figure = new_figure(4.6, 4.4)
    axes = figure.subplots()
    ends = [number for pair in pairs for number in pair]
    line = [min(ends), max(ends)]
    axes.plot(line, line, color=ACCENT, linewidth=0.9, linestyle=(0, (4, 4)))
    axes.plot(*_columns(pairs), "o", color=BLUE, markersize=3.5, alpha=0.45, markeredgewidth=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("right number", color=INK)
    axes.set_ylabel("predicted number", color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    add_title(figure, title)
    return png(figure)


def plot_comparison(result: Mapping[str, Any]) -> bytes:
    """Score against trained parameters: a large point for each method, a small one for each seed.

    Args:
        result: The result of `training.comparison.compare`.
    """
    figure = new_figure(6.8, 4.0)
    axes = figure.subplots()
    for entry in result["methods"]:
        full = entry["method"] == "full"
        color = ACCENT if full else BLUE
        x, scores = entry["parameters"], entry["scores"]
        axes.plot([x] * len(scores), scores, ".", color=color, alpha=0.45, markersize=6)
        axes.plot([x], [entry["mean"]], "o", color=color, markersize=9)
        if full:
            axes.axhline(entry["mean"], color=ACCENT, linewidth=0.8, linestyle=(0, (4, 4)))
    axes.set_xscale("log")
    axes.margins(x=0.16, y=0.12)
    _name_points(axes, result["methods"])
    axes.set_xlabel("trained parameters", color=INK)
    axes.set_ylabel(f"{result['split']} {result['metric']}", color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    seeds = len(result["seeds"])
    add_title(figure, f"{result['name']}" + (f", {seeds} seeds" if seeds > 1 else ""))
    return png(figure)


def _name_points(axes: Any, methods: Sequence[Mapping[str, Any]]) -> None:
    """Writes a name to the right of each point, moved up if it would cover another."""
    taken: list[tuple[float, float]] = []
    for entry in sorted(methods, key=lambda entry: entry["mean"]):
        x, y = axes.transData.transform((entry["parameters"], entry["mean"]))
        free = max([y, *(b + NAME_HEIGHT for a, b in taken if abs(a - x) < NAME_WIDTH)])
        taken.append((x, free))
        axes.annotate(
            f"{entry['method']} {entry['mean']:.3f}",
            (entry["parameters"], entry["mean"]),
            textcoords="offset pixels",
            xytext=(13, free - y + 10),
            va="center",
            color=ACCENT if entry["method"] == "full" else BLUE,
            fontsize=9,
        )
