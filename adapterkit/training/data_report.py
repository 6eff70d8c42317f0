"""A report on a recipe's rows before training: counts, lengths, duplicates and labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from statistics import fmean, median, pstdev
from typing import Any

from ..backbone.model import Backbone
from ..data.readers import stop
from ..errors import DataError
from ..tasks.base import Task
from ..tasks.columns import target_columns
from .checked_rows import CheckedRows, read_all_rows, read_targets
from .duplicates import duplicates
from .recipe import Recipe

BARS = 8
"""Bars of a histogram."""


def check(
    recipe: Recipe, backbone: Backbone, *, shown: int = 3, progress: bool = False
) -> dict[str, Any]:
    """A report on the rows, of plain values.

    Args:
        recipe: The recipe.
        backbone: Its backbone.
        shown: Number of training rows that are shown as tokens.
        progress: Show a progress bar.

    Returns:
        `splits` (for each the number of rows, tokens and answers), `histogram` of tokens,
        `synonyms` (words in the table, training rows that have one of them), `duplicates` inside
        and across splits, `only_outside_training` (labels), `warnings` about the training rows,
        `refused` (why training would stop, if it would), `first_rows`.

    Raises:
        AdapterkitError: The rows have a fault; the first one.
    """
    checked = read_all_rows(recipe, backbone, progress=progress)
    lengths = [n for part in checked.lengths.values() for row in part for n in row]
    return {
        "name": recipe.name,
        "task": checked.task.type,
        "backbone": backbone.name,
        "limit": checked.limit,
        "splits": {split: _split_summary(checked, split) for split in checked.rows},
        "histogram": histogram(lengths),
        "synonyms": _synonym_counts(checked),
        "duplicates": duplicates(checked.rows, checked.task),
        "only_outside_training": _labels_outside_training(checked),
        "warnings": checked.task.warnings(checked.rows["train"], checked.targets["train"]),
        "refused": _refusal(recipe.task, backbone, checked),
        "first_rows": _first_rows(checked, backbone, shown),
    }


def _split_summary(checked: CheckedRows, split: str) -> dict[str, Any]:
    """Number of rows of a split, their tokens and their answers."""
    rows, task = checked.rows[split], checked.task
    answers = balance(value for row in rows for value in task.label_values(row))
    return {"rows": len(rows), **_tokens(checked, split), **answers}


def _first_rows(checked: CheckedRows, backbone: Backbone, count: int) -> list[dict[str, Any]]:
    """The first training rows as the model reads them."""
    answer = target_columns(checked.task.columns)
    rows, examples = checked.rows["train"][:count], checked.examples["train"][:count]
    return [
        {
            "row": row.where,
            "tokens": [backbone.reader.tokens(part.input_ids) for part in example.inputs],
            "answer": {role: row.fields[role] for role in answer},
            "target": _plain(target),
        }
        for row, example, target in zip(rows, examples, checked.targets["train"], strict=False)
    ]


def _tokens(checked: CheckedRows, split: str) -> dict[str, Any]:
    """Tokens of the sequences of a split before they are cut, and how many rows the limit cuts."""
    cut = windows = 0
    for lengths, example in zip(checked.lengths[split], checked.examples[split], strict=True):
        if max(lengths) > checked.limit:
            more = len(example.inputs) > len(lengths)
            windows, cut = windows + more, cut + (not more)
    sizes = sorted(n for lengths in checked.lengths[split] for n in lengths)
    tokens = {
        "min": sizes[0],
        "median": median(sizes),
        "p95": sizes[math.ceil(0.95 * len(sizes)) - 1],
        "max": sizes[-1],
    }
    return {"tokens": tokens, "cut": cut, "in_windows": windows}


def balance(values: Iterable[str | float]) -> dict[str, Any]:
    """Names with their counts and shares of all names, the most frequent first; numbers as
    their least, mean, median, greatest and standard deviation."""
    names: Counter[str] = Counter()
    numbers: list[float] = []
    for value in values:
        if isinstance(value, str):
            names[value] += 1
        else:
            numbers.append(value)
    found: dict[str, Any] = {}
    if names:
        found["labels"] = {
            name: {"count": count, "share": count / names.total()}
            for name, count in sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))
        }
    if numbers:
        found["numbers"] = {
            "min": min(numbers),
            "mean": fmean(numbers),
            "median": median(numbers),
            "max": max(numbers),
            "std": pstdev(numbers),
        }
    return found


def histogram(sizes: Sequence[int], bars: int = BARS) -> list[tuple[int, int, int]]:
    """First size, last size and number of each of some bars of equal width."""
    least = min(sizes)
    width = math.ceil((max(sizes) - least + 1) / bars)
    counts = Counter((size - least) // width for size in sizes)
    return [
        (least + bar * width, least + (bar + 1) * width - 1, counts[bar])
        for bar in range(max(counts) + 1)
    ]


def _synonym_counts(checked: CheckedRows) -> dict[str, int] | None:
    """Words in the table of synonyms, and the number of training rows that it can change."""
    table, task = checked.synonyms, checked.task
    if table is None:
        return None

    def exchanged(text: str, at: str) -> str:
        return table.reworded(text, 1.0, at)

    rows = [row.fields for row in checked.rows["train"]]
    return {
        "words": len(table),
        "rows": sum(task.reworded(fields, exchanged) != fields for fields in rows),
    }


def _labels_outside_training(checked: CheckedRows) -> dict[str, Any]:
    """For each other split the names that no training row has: row count, and the first row."""
    task, rows = checked.task, checked.rows
    known = {name for row in rows["train"] for name in task.label_values(row)}
    found: dict[str, Any] = {}
    for split, part in rows.items():
        for row in part:
            for name in {x for x in task.label_values(row) if isinstance(x, str)} - known:
                entry = found.setdefault(split, {}).setdefault(
                    name, {"rows": 0, "first": row.where}
                )
                entry["rows"] += 1
    return found


def _refusal(task: Task, backbone: Backbone, checked: CheckedRows) -> str | None:
    """Why training would fail, which knows the labels of the training rows alone; None if not."""
    try:
        fitted = task.fit(checked.rows["train"], backbone.pooling)
        for split, part in checked.rows.items():
            read_targets(fitted, part, checked.examples[split], stop)
    except DataError as fault:
        return str(fault)
    return None


def _plain(target: Any) -> Any:
    return asdict(target) if is_dataclass(target) and not isinstance(target, type) else target
