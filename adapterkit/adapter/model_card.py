"""What people read in an adapter folder: `README.md`, figures and tables."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..backbone.embedded import EMBEDDED, EMBEDDED_HUB_NAME
from ..tasks.fields import FieldKind
from .adapter import Adapter
from .confusion_plot import confusions
from .plots import learning_curve, scatter

REPORT = "report"
"""Folder of figures and tables in an adapter folder; only people read it."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""Names of backbones on the hub that have an owner; the embedded one and folders have none."""

MOST_LABELS = 20
"""Most labels that a model card names."""

RECORDED = (
    ("rows", "rows"),
    ("seeds", "seeds of the members"),
    ("epoch", "epoch kept"),
    ("seconds", "training time (s)"),
)
"""Keys of the training record in the model card, and their names there."""


def model_card(adapter: Adapter, reports: Iterable[str] = (), peft_note: str | None = None) -> str:
    """The folder's `README.md`.

    Args:
        adapter: The adapter.
        reports: Names of the files of `report/`, to link to.
        peft_note: How PEFT uses the folder.
    """
    facts = (f"| {name} | {value} |" for name, value in _facts(adapter))
    sections = [
        _front_matter(adapter, "adapterkit"),
        f"# {adapter.name}",
        f"A {adapter.method.type} adapter for {adapter.task.type}, made with adapterkit. It turns "
        f"the frozen backbone `{adapter.backbone}` into a model for one task without changing it.",
        "\n".join(["| | |", "| --- | --- |", *facts]),
        *_scores(adapter),
        *map(_report_link, reports),
        "## Use",
        *_usage(adapter),
        *([peft_note] if peft_note is not None else []),
        "How it was trained is in `adapterkit.json`: recipe, seed, data fingerprint, history.",
    ]
    return "\n\n".join(sections) + "\n"


def merged_card(adapter: Adapter, auto_model: str) -> str:
    """The `README.md` of a checkpoint of transformers that holds an adapter in its weights.

    Args:
        adapter: The adapter.
        auto_model: transformers' class that loads the checkpoint.
    """
    sections = [
        _front_matter(adapter, "transformers"),
        f"# {adapter.name}",
        f"`{adapter.backbone}` with a {adapter.method.type} adapter for {adapter.task.type}, which "
        "adapterkit added to its weights.",
        "## Use",
        f"```python\nfrom transformers import AutoTokenizer, {auto_model}\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("folder")\n'
        f'model = {auto_model}.from_pretrained("folder")\n```',
        *_scores(adapter),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(adapter: Adapter, library: str) -> str:
    """The metadata that the Hugging Face hub reads from the head of a README.

    Args:
        adapter: The adapter.
        library: The library that loads the folder.
    """
    lines = [f"library_name: {library}", f"tags: [adapterkit, {adapter.method.type}]"]
    if adapter.task.pipeline_tag is not None:
        lines.append(f"pipeline_tag: {adapter.task.pipeline_tag}")
    metrics = {name for scores in adapter.metrics.values() for name in scores} - {"loss"}
    if metrics:
        lines.append(f"metrics: [{', '.join(sorted(metrics))}]")
    columns = adapter.inputs.required
    if "text" in columns and all(c.kind == FieldKind.TEXT for c in columns.values()):
        example = json.dumps(adapter.task.example_request(columns), ensure_ascii=False)
        lines.append(f"widget: [{example}]")
    base = EMBEDDED_HUB_NAME if adapter.backbone == EMBEDDED else adapter.backbone
    if HUB_NAME.fullmatch(base):
        relation = "adapter" if library == "adapterkit" else "merge"
        lines += [f"base_model_relation: {relation}", f"base_model: {base}"]
    return "\n".join(["---", *lines, "---"])


def _usage(adapter: Adapter) -> Iterator[str]:
    """A command and a program that ask the adapter, each with a request that it can answer."""
    columns = adapter.inputs.required
    request: Any = adapter.task.example_request(columns)
    if [column.kind for column in columns.values()] == [FieldKind.TEXT]:
        (request,) = request.values()
    word = request if isinstance(request, str) else json.dumps(request, ensure_ascii=False)
    yield f"```bash\nadapterkit predict {adapter.name} {shlex.quote(word)}\n```"
    yield (
        "```python\nfrom adapterkit import Predictor\n\n"
        f'predictor = Predictor.open(["{adapter.name}"])\n'
        f'print(predictor.predict("{adapter.name}", [{request!r}]))\n```'
    )


def _facts(adapter: Adapter) -> Iterator[tuple[str, str]]:
    """The rows of the first table: what the adapter is and how it was trained."""
    yield "task", adapter.task.type
    yield "method", _settings(adapter.method)
    yield "backbone", f"`{adapter.backbone}`, fingerprint `{adapter.fingerprint}`"
    for parent in adapter.stack[:-1]:
        yield "stands on", f"`{parent.name}`, weights `{parent.digest}`"
    for part in adapter.training.get("composed", {}).get("parents", ()):
        yield "composed of", f"{part['weight']} times `{part['name']}`, weights `{part['digest']}`"
    for part in adapter.training.get("parents", ()):
        yield "contains", f"`{part['name']}`, weights `{part['digest']}`"
    yield "parameters", f"{adapter.n_parameters:,} ({adapter.n_bytes / 1000:,.0f} kB)"
    if adapter.extra_members:
        yield "members", f"{adapter.n_members}, whose raw scores are averaged"
    labels = getattr(adapter.task, "labels", None)
    if labels:
        names = ", ".join(f"`{label}`" for label in labels[:MOST_LABELS])
        more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
        yield "labels", f"{len(labels)}: {names}{more}"
    record = _with_members(adapter.training)
    for key, name in RECORDED:
        if key in record:
            yield name, _value_text(record[key])


def _with_members(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """A training record; of an ensemble with the seeds and epochs of all members."""
    if not training.get("members"):
        return training
    members = [training, *training["members"]]
    seeds, epochs = ([member[key] for member in members] for key in ("seed", "epoch"))
    return {**training, "seeds": seeds, "epoch": epochs}


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{split} {n:,}" for split, n in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _scores(adapter: Adapter) -> Iterator[str]:
    """The section with the metrics of each split, if there are any."""
    if not adapter.metrics:
        return
    names = sorted({name for scores in adapter.metrics.values() for name in scores})
    table = [f"| split | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    all_intervals = adapter.training.get("intervals", {})
    for split, scores in adapter.metrics.items():
        intervals = all_intervals.get(split, {})
        cells = [score_text(scores[n], intervals.get(n)) if n in scores else "" for n in names]
        table.append(f"| {split} | {' | '.join(cells)} |")
    yield "## Scores"
    yield "\n".join(table)
    if all_intervals:
        yield "In brackets: 95% bootstrap interval over the split's rows."


def _report_link(name: str) -> str:
    title = name.partition(".")[0].replace("_", " ")
    picture = "!" if name.endswith(".png") else ""
    return f"{picture}[{title}]({REPORT}/{name})"


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
    if training.get("log"):
        lines = (json.dumps(entry, ensure_ascii=False) for entry in training["log"])
        files["log.jsonl"] = "".join(f"{line}\n" for line in lines).encode()
    title = f"{adapter.name}, {report.get('split')} rows"
    if report.get("confusion"):
        labels = report.get("labels") or getattr(adapter.task, "labels", ())
        files["confusion_matrix.png"] = confusions(title, labels, report["confusion"])
    if report.get("numbers"):
        files["scatter.png"] = scatter(title, report["numbers"])
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
