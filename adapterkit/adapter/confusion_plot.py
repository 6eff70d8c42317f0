"""The plot of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .figure import BLUE, GRID, INK, OWN_FONT, add_title, font_families, new_figure, png

MATRIX = 40
"""Most labels of a matrix; for more, the most confused pairs are drawn."""
PAIRS = 20
"""Most pairs of confused labels in a plot."""
NUMBERED = 20
"""Most labels of a matrix that shows the number of each cell."""


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
    add_title(figure, title)
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
    add_title(figure, f"{title}: most confused labels")
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


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "shares", ["#f2f5f7", "#9fc3d6", BLUE, "#173f58"], N=20
    )


def _norm() -> Any:
    """A colour scale on which a tenth of a label's rows can be seen."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.6, vmin=0.0, vmax=1.0)


def _axis_labels(labels: Sequence[str], width: int = 28) -> tuple[list[str], list[str] | None]:
    """Labels short enough for an axis, and the fonts that have all their characters; None if no
    installed font has them."""
    names = [" ".join(label.split()) for label in labels]
    names = [name if len(name) <= width else name[: width - 1] + "…" for name in names]
    return names, font_families("".join(sorted(set("".join(names)))))
