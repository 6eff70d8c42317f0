"""Plots as PNG: learning curve, confusion matrix, comparison of methods."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

INK, ACCENT, GRID, BLUE = "#333333", "#d1495b", "#dddddd", "#2e6f95"
MATRIX = 40
"""Most labels of a matrix; for more, the most confused pairs are drawn."""
PAIRS = 20
"""Most pairs of confused labels in a plot."""
OWN_FONT = "DejaVu Sans"
"""The font that comes with Matplotlib."""
TITLE: dict[str, Any] = {"loc": "left", "color": INK, "fontsize": 11, "parse_math": False}
NAME_WIDTH, NAME_HEIGHT = 130, 17
"""Pixels of the name of a point."""
NUMBERED = 20
"""Most labels of a matrix that shows the number of each cell."""


def learning_curve(name: str, metric: str, training: Mapping[str, Any]) -> bytes:
    """Training loss and main validation metric over the steps, of every member of an ensemble, with
    the first in front.

    Args:
        name: Name of the adapter.
        metric: Name of the main metric.
        training: The training record.
    """
    others = training.get("members", [])
    figure = _figure(6.4, 3.6)
    left = figure.subplots()
    left.set_xlabel("step", color=INK)
    left.set_ylabel("training loss", color=BLUE)
    left.grid(color=GRID, linewidth=0.6)
    left.spines[["top"]].set_visible(False)
    right = None
    for record in (*others, training):
        style = {"alpha": 1.0 if record is training else 0.35, "linewidth": 1.2}
        left.plot(*_columns(record.get("losses", [])), color=BLUE, **style)
        evaluated = [entry for entry in record["history"] if metric in entry.get("validation", {})]
        if not evaluated:
            continue
        if right is None:
            right = left.twinx()
            right.set_ylabel(f"validation {metric}", color=ACCENT)
            right.spines[["top"]].set_visible(False)
        points = [(entry["step"], entry["validation"][metric]) for entry in evaluated]
        right.plot(*_columns(points), color=ACCENT, marker="o", markersize=4, **style)
        kept = points[[entry["epoch"] for entry in evaluated].index(record["epoch"])]
        ring = {"markersize": 10, "fillstyle": "none", "color": ACCENT, "alpha": style["alpha"]}
        right.plot(*kept, "o", **ring)
        if record is training:
            _name_kept(right, kept)
    left.set_ylim(bottom=0)
    title = f"{name}, {1 + len(others)} members" if others else name
    left.set_title(title, loc="left", color=INK)
    return png(figure)


def _name_kept(axes: Any, point: tuple[float, float]) -> None:
    """Writes the score of the epoch that was kept below its point."""
    axes.annotate(
        f"kept: {point[1]:.3f}",
        point,
        textcoords="offset points",
        xytext=(0, -18),
        ha="center",
        color=ACCENT,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
    )


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
    figure = _figure(side + 1.7 + margin, side + 0.9 + 0.7 * margin)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=_shades(), norm=_norm())
    fontsize = 9 if n <= 12 else 7
    _label_cells(axes, names, fontsize, style)
    for true, row in enumerate(rows) if n <= NUMBERED else ():
        for predicted, count in enumerate(row):
            if count:
                color = "white" if shares[true][predicted] > 0.4 else INK
                cell = {"ha": "center", "va": "center", "color": color, "fontsize": fontsize}
                axes.text(predicted, true, count, **cell)
    axes.set_title(title, **TITLE)
    _add_scale(figure.colorbar(image, ax=axes, shrink=0.7, aspect=25, pad=0.02))
    return png(figure)


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
    figure = _figure(7.6, 1.1 + 0.27 * len(wrong))
    axes = figure.subplots()
    axes.set_title(f"{title}: most confused labels", **TITLE)
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


def plot_comparison(result: Mapping[str, Any]) -> bytes:
    """Score against trained parameters: a large point for each method, a small one for each seed.

    Args:
        result: The result of `training.comparison.compare`.
    """
    figure = _figure(6.8, 4.0)
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
    axes.set_title(f"{result['name']}" + (f", {seeds} seeds" if seeds > 1 else ""), **TITLE)
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


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    return Figure(figsize=(width, height), dpi=120, layout=layout)


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
