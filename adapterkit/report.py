"""What a person reads in an adapter folder: a model card and a learning curve."""

from __future__ import annotations

import io
from typing import Any

from .adapter import Adapter

INK, ACCENT, GRID = "#333333", "#d1495b", "#dddddd"
BLUE = "#2e6f95"


def model_card(adapter: Adapter) -> str:
    """The folder's `README.md`."""
    training = adapter.training
    lines = [
        f"# {adapter.name}",
        "",
        f"A {adapter.method.type} adapter for {adapter.task.type}, made with adapterkit. It turns "
        f"the frozen backbone `{adapter.backbone}` into a model for one task without changing it.",
        "",
        "| | |",
        "| --- | --- |",
        f"| task | {adapter.task.type} |",
        f"| method | {_settings(adapter.method)} |",
        f"| backbone | `{adapter.backbone}`, weights `{adapter.fingerprint}` |",
        f"| parameters | {adapter.n_parameters:,} ({adapter.n_bytes / 1000:,.0f} kB) |",
    ]
    labels = getattr(adapter.task, "labels", None)
    if labels:
        shown = ", ".join(f"`{label}`" for label in labels[:20])
        more = f" and {len(labels) - 20} more" if len(labels) > 20 else ""
        lines.append(f"| labels | {len(labels)}: {shown}{more} |")
    for key, name in (("rows", "rows"), ("epoch", "epoch kept"), ("seconds", "training time (s)")):
        if key in training:
            value = training[key]
            shown = (
                ", ".join(f"{split} {n:,}" for split, n in value.items())
                if isinstance(value, dict)
                else str(value)
            )
            lines.append(f"| {name} | {shown} |")
    if adapter.metrics:
        names = sorted({name for scores in adapter.metrics.values() for name in scores})
        lines += [
            "",
            "## Scores",
            "",
            f"| split | {' | '.join(names)} |",
            "| --- " * (len(names) + 1) + "|",
        ]
        for split, scores in adapter.metrics.items():
            cells = " | ".join(f"{scores[n]:.4f}" if n in scores else "" for n in names)
            lines.append(f"| {split} | {cells} |")
    if training.get("history"):
        lines += ["", "![learning curve](learning_curve.png)"]
    lines += [
        "",
        "## Use",
        "",
        "```bash",
        f'adapterkit predict {adapter.name} "a text"',
        "```",
        "",
        "How it was trained stands in `adapterkit.json`: recipe, seed, data fingerprint, history.",
    ]
    return "\n".join(lines) + "\n"


def _settings(section: Any) -> str:
    shown = [
        f"{name} {value}"
        for name, value in vars(section).items()
        if value is not None and not isinstance(value, tuple)
    ]
    return f"{section.type} ({', '.join(shown)})"


def learning_curve(adapter: Adapter) -> bytes:
    """Training loss and the main validation metric over the steps, as PNG."""
    from matplotlib.figure import Figure

    history = adapter.training["history"]
    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    left = figure.subplots()
    losses = adapter.training.get("losses", [])
    left.plot([step for step, _ in losses], [loss for _, loss in losses], color=BLUE, linewidth=1.2)
    left.set_xlabel("step", color=INK)
    left.set_ylabel("training loss", color=BLUE)
    left.set_ylim(bottom=0)
    left.grid(color=GRID, linewidth=0.6)
    metric = adapter.task.main_metric
    checked = [entry for entry in history if metric in entry.get("validation", {})]
    if checked:
        right = left.twinx()
        steps = [entry["step"] for entry in checked]
        scores = [entry["validation"][metric] for entry in checked]
        right.plot(steps, scores, color=ACCENT, marker="o", markersize=4, linewidth=1.2)
        right.set_ylabel(f"validation {metric}", color=ACCENT)
        kept = [entry["epoch"] for entry in checked].index(adapter.training["epoch"])
        right.plot(steps[kept], scores[kept], "o", markersize=10, fillstyle="none", color=ACCENT)
        right.annotate(
            f"kept: {scores[kept]:.3f}",
            (steps[kept], scores[kept]),
            textcoords="offset points",
            xytext=(0, -18),
            ha="center",
            color=ACCENT,
        )
        right.spines[["top"]].set_visible(False)
    left.spines[["top"]].set_visible(False)
    left.set_title(adapter.name, loc="left", color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
