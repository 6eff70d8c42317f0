"""Every key of a recipe with its default and meaning."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from typing import Any

from ..data.dataset import Data
from ..methods.base import methods
from ..metrics.base import metric_kinds
from ..schema import keys_of
from ..tasks.base import column_roles, tasks
from .augmentation import Augmentation
from .backbone_section import BackboneSection
from .search_space import Range
from .training_section import Training


def describe_keys() -> str:
    """Every key of a recipe with its default and meaning, as text."""
    sections: list[tuple[str, Any]] = [("data", Data), ("backbone", BackboneSection)]
    sections += [(f"task: {{type: {name}}}", kind) for name, kind in tasks().items()]
    sections += [(f"method: {{type: {name}}}", kind) for name, kind in methods().items()]
    sections += [("training", Training), ("augmentation", Augmentation)]
    lines = ["name: tenant/name, or name alone: what the adapter is called in the store"]
    for title, section in sections:
        lines += ["", title]
        rows = keys_of(section) + (_column_keys() if section is Data else [])
        lines += _described(rows)
    lines += ["", "search: among what adapterkit tune searches, by section.key", *_range_keys()]
    for name, kind in metric_kinds().items():
        more = [metric for metric in kind.metrics if metric not in kind.defaults]
        metrics = f"{name}: {', '.join(kind.defaults)}" + (
            f"; extra: {', '.join(more)}" if more else ""
        )
        lines += ["", *wrap(f"metrics of {metrics}", 96, subsequent_indent="      ")]
    return "\n".join(lines)


def _described(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    lines = []
    for key, default, meaning in rows:
        lines += wrap(
            f"{key} ({default}): {meaning}", 96, initial_indent="  ", subsequent_indent="      "
        )
    return lines


def _range_keys() -> list[str]:
    """The keys of a range, with an example of each kind of values."""
    example = "training.learning_rate: {low: 1e-4, high: 1e-2, log: true}, method.r: [4, 8, 16]"
    return [f"  {example}", *_described(keys_of(Range))]


def _column_keys() -> list[tuple[str, str, str]]:
    """Role, default name and meaning of the columns of all tasks, each meaning with its tasks."""
    rows = []
    for role, columns in column_roles().items():
        meanings: dict[str, list[str]] = {}
        for task, column in columns.items():
            meanings.setdefault(column.doc, []).append(task)
        defaults = [column.default_name(role) or "none" for column in columns.values()]
        described = "; ".join(f"{doc} ({', '.join(names)})" for doc, names in meanings.items())
        rows.append((role, " or ".join(dict.fromkeys(defaults)), f"Column of {described}."))
    return rows
