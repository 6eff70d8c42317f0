"""Plots as PNG: learning curve, confusion matrix, comparison of methods."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from textwrap import fill
from typing import Any

INK, ACCENT, GRID, BLUE = "#333333", "#d1495b", "#dddddd", "#2e6f95"
MATRIX = 40
"""Most labels of a matrix; for more, the most confused pairs are drawn."""
PAIRS = 20
"""Most pairs of confused labels in a plot."""
OWN_FONT = "DejaVu Sans"
"""The font that comes with Matplotlib."""
TITLE: dict[str, Any] = {"x": 0.02, "ha": "left", "color": INK, "fontsize": 11, "parse_math": False}
TITLE_CHARACTERS = 10.5
"""Characters of a title in an inch."""
NAME_WIDTH, NAME_HEIGHT = 130, 17
"""Pixels of the name of a point."""
NUMBERED = 20
"""Most labels of a matrix that shows the number of each cell."""


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
        score = dict(_scores(training, metric))[_kept_step(training)]
        title += f" (kept: epoch {training['epoch']}, {score:.3f})"
    _add_title(figure, title)
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


def confusions(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> bytes:
    """The confusion matrix, or for many labels the most confused pairs.

    Labels in a script that no installed font has are shown as their number, counted from 1, as in
    `per_class.csv`.

    Args:
        title: Title of the plot.
        labels: Label names.
        counts: True label, predicted label and number of rows, for pairs with any rows.
    """
    names, fonts = _axis_labels(labels)
    if fonts is None:
        names, fonts = [str(number) for number in range(1, len(labels) + 1)], [OWN_FONT]
        title += " (numbers: see per_class.csv)"
    style = {"fontfamily": fonts, "parse_math": False, "color": INK}
    if len(labels) <= MATRIX:
        return _matrix(title, names, counts, style)
    return _pairs(title, names, counts, style)


def _matrix(
    title: str, names: Sequence[str], counts: Sequence[Sequence[int]], style: dict[str, Any]
) -> bytes:
    n = len(names)
    rows = [[0] * n for _ in names]
    for true, predicted, count in counts:
        rows[true][predicted] = count
    shares = [[count / max(1, sum(row)) for count in row] for row in rows]
    side = max(2.0, min(9.5, 0.42 * n))
    margin = 0.065 * max(map(len, names))
    figure = new_figure(side + 1.7 + margin, side + 0.9 + 0.7 * margin)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=_shades(), norm=_norm())
    fontsize = 9 if n <= 12 else 7
    _label_cells(axes, names, fontsize, style)
    for true, row in enumerate(rows) if n <= NUMBERED else ():
        for predicted, count in enumerate(row):
            if count:
                shade = image.cmap(image.norm(shares[true][predicted]))
                cell = {"color": _contrast(shade), "fontsize": fontsize}
                axes.text(predicted, true, count, ha="center", va="center", **cell)
    for true, row in enumerate(rows):
        if not any(row):
            axes.text(
                (n - 1) / 2, true, "no rows", ha="center", va="center", color=INK, fontsize=fontsize
            )
    _add_title(figure, title)
    _add_scale(figure.colorbar(image, ax=axes, shrink=0.7, aspect=25, pad=0.02))
    return png(figure)


def _contrast(shade: Sequence[float]) -> str:
    """The colour of digits that are read on a shade: WCAG's relative luminance decides."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # White has a ratio of 1.05 to the shade; INK has luminance 0.033.
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.083 else INK


def _label_cells(axes: Any, names: Sequence[str], fontsize: int, style: dict[str, Any]) -> None:
    """Writes the labels on both axes of a matrix, and draws white lines between its cells."""
    n = len(names)
    if max(map(len, names)) <= 6 and n <= 12:
        axes.set_xticks(range(n), names, **style)
    else:
        axes.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor", **style)
    axes.set_yticks(range(n), names, **style)
    axes.tick_params(labelsize=fontsize, length=0)
    axes.set_xticks([index - 0.5 for index in range(1, n)], minor=True)
    axes.set_yticks([index - 0.5 for index in range(1, n)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.0)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted label", color=INK)
    axes.set_ylabel("true label", color=INK)
    axes.spines[:].set_visible(False)


def _add_scale(bar: Any) -> None:
    """Writes shares beside the colours of a matrix."""
    bar.set_ticks(
        [0.0, 0.1, 0.25, 0.5, 0.75, 1.0], labels=["0", "10%", "25%", "50%", "75%", "100%"]
    )
    bar.set_label("of the true label's rows", color=INK, fontsize=8)
    bar.ax.tick_params(labelsize=8, length=0, labelcolor=INK)
    bar.outline.set_visible(False)


def _pairs(
    title: str, names: Sequence[str], counts: Sequence[Sequence[int]], style: dict[str, Any]
) -> bytes:
    wrong = sorted((row for row in counts if row[0] != row[1]), key=lambda row: -row[2])[:PAIRS]
    figure = new_figure(7.6, 1.1 + 0.27 * len(wrong))
    axes = figure.subplots()
    _add_title(figure, f"{title}: most confused labels")
    if not wrong:
        axes.set_axis_off()
        axes.text(0, 0.5, "No row was given a wrong label.", color=INK, transform=axes.transAxes)
        return png(figure)
    axes.barh(range(len(wrong)), [count for *_, count in wrong], color=BLUE, height=0.68)
    pairs = [f"{names[true]}  →  {names[predicted]}" for true, predicted, _ in wrong]
    axes.set_yticks(range(len(wrong)), pairs, **style)
    axes.tick_params(labelsize=8, length=0)
    axes.invert_yaxis()
    for index, (*_, count) in enumerate(wrong):
        axes.annotate(
            str(count),
            (count, index),
            textcoords="offset points",
            xytext=(4, 0),
            va="center",
            color=INK,
            fontsize=8,
        )
    axes.set_xticks([])
    axes.margins(x=0.08, y=0.02)
    axes.set_xlabel("rows, true label → predicted label", color=INK, fontsize=9)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(GRID)
    return png(figure)


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
    _add_title(figure, title)
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
    _add_title(figure, f"{result['name']}" + (f", {seeds} seeds" if seeds > 1 else ""))
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


def new_figure(width: float, height: float) -> Any:
    """A figure of a size in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    return Figure(figsize=(width, height), dpi=120, layout=layout)


def _add_title(figure: Any, title: str) -> None:
    """Writes a title in as many lines as the figure's width needs."""
    figure.suptitle(fill(title, int(TITLE_CHARACTERS * figure.get_figwidth())), **TITLE)


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "shares", ["#f2f5f7", "#9fc3d6", BLUE, "#173f58"], N=20
    )


def _norm() -> Any:
    """A colour scale on which a tenth of a label's rows can be seen."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.6, vmin=0.0, vmax=1.0)


def png(figure: Any) -> bytes:
    """A figure as PNG of 128 colours: it looks the same and has a third of the bytes."""
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png")
    with Image.open(full) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
            small, format="png", optimize=True
        )
    return small.getvalue()


def _axis_labels(labels: Sequence[str], width: int = 28) -> tuple[list[str], list[str] | None]:
    """Labels short enough for an axis, and the fonts that have all their characters; None if no
    installed font has them."""
    names = [" ".join(label.split()) for label in labels]
    names = [name if len(name) <= width else name[: width - 1] + "…" for name in names]
    return names, font_families("".join(sorted(set("".join(names)))))


@cache
def font_families(characters: str) -> list[str] | None:
    """Matplotlib's own font, and if it lacks characters an installed one that has the rest."""
    from matplotlib import font_manager

    lacking = _missing(characters, font_manager.findfont(OWN_FONT))
    if not lacking:
        return [OWN_FONT]
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: entry.name):
        # Matplotlib's "last resort" has every character, as a box.
        if not entry.name.startswith("Last Resort") and not _missing(lacking, entry.fname):
            return [OWN_FONT, entry.name]
    return None


def _missing(characters: Iterable[str], font: str) -> str:
    """The characters that a font file lacks."""
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font).get_charmap()
    return "".join(c for c in characters if ord(c) not in known)
