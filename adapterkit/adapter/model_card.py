"""What people read in an adapter folder: `README.md`, figures and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .adapter import Adapter
from .plots import confusions, learning_curve

REPORT = "report"
"""Folder of figures and tables in an adapter folder; only people read it."""


RECORDED = (
    ("rows", "rows"),
    ("seeds", "seeds of the members"),
    ("epoch", "epoch kept"),
    ("seconds", "training time (s)"),
)
"""Keys of the training record in the model card, and their names there."""


def model_card(adapter: Adapter, reports: Iterable[str] = ()) -> str:
    """The folder's `README.md`.

    Args:
        adapter: The adapter.
        reports: Names of the files of `report/`, to link to.
    """
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
        *(
            f"| stands on | `{parent.name}`, weights `{parent.digest}` |"
            for parent in adapter.stack[:-1]
        ),
        f"| parameters | {adapter.n_parameters:,} ({adapter.n_bytes / 1000:,.0f} kB) |",
    ]
    others = training.get("members", [])
    if adapter.extra_members:
        lines.append(f"| members | {adapter.n_members}, whose raw scores are averaged |")
    if others:
        seeds = [training["seed"], *(member["seed"] for member in others)]
        kept = [training["epoch"], *(member["epoch"] for member in others)]
        training = {**training, "seeds": seeds, "epoch": kept}
    labels = getattr(adapter.task, "labels", None)
    if labels:
        shown = ", ".join(f"`{label}`" for label in labels[:20])
        more = f" and {len(labels) - 20} more" if len(labels) > 20 else ""
        lines.append(f"| labels | {len(labels)}: {shown}{more} |")
    for key, name in RECORDED:
        if key in training:
            value = training[key]
            if isinstance(value, dict):
                value = [f"{split} {n:,}" for split, n in value.items()]
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
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
            intervals = training.get("intervals", {}).get(split, {})
            cells = " | ".join(
                score_text(scores[n], intervals.get(n)) if n in scores else "" for n in names
            )
            lines.append(f"| {split} | {cells} |")
        if training.get("intervals"):
            lines += ["", "In brackets: 95% bootstrap interval over the split's rows."]
    for name in reports:
        title = name.partition(".")[0].replace("_", " ")
        picture = "!" if name.endswith(".png") else ""
        lines += ["", f"{picture}[{title}]({REPORT}/{name})"]
    lines += [
        "",
        "## Use",
        "",
        "```bash",
        f'adapterkit predict {adapter.name} "a text"',
        "```",
        "",
        "How it was trained is in `adapterkit.json`: recipe, seed, data fingerprint, history.",
    ]
    return "\n".join(lines) + "\n"


def _settings(section: Any) -> str:
    """A method with those of its settings that are set."""
    shown = [
        f"{name} {value}"
        for name, value in vars(section).items()
        if value is not None and not isinstance(value, tuple)
    ]
    return f"{section.type} ({', '.join(shown)})"


def report_files(adapter: Adapter) -> dict[str, bytes]:
    """Files of `report/` by name, from the training record."""
    training, files = adapter.training, {}
    report = training.get("report", {})
    if training.get("history"):
        curve = learning_curve(adapter.name, adapter.task.main_metric, training)
        files["learning_curve.png"] = curve
    if report.get("confusion"):
        title = f"{adapter.name}, {report['split']} rows"
        labels = getattr(adapter.task, "labels", ())
        files["confusion_matrix.png"] = confusions(title, labels, report["confusion"])
    if report.get("per_class"):
        files["per_class.csv"] = _per_class(report["per_class"])
    return files


def _per_class(rows: Sequence[Mapping[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["number", *rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"number": number, **row} for number, row in enumerate(rows, start=1))
    return out.getvalue().encode()


def score_text(value: float, interval: Sequence[float] | None) -> str:
    """A score, with its 95% interval if there is one."""
    text = f"{value:.4f}"
    return text if interval is None else f"{text} (95%: {interval[0]:.4f} to {interval[1]:.4f})"
