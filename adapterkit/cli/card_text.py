"""The card of an adapter folder as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card_text(card: Mapping[str, Any]) -> str:
    """The card of an adapter folder as indented lines."""
    rows = []
    for key in ("name", "folder", "adapterkit", "bytes"):
        if key in card:
            rows.append(f"{key:12} {card[key]}")
    if card.get("members"):
        rows.append(f"{'members':12} {1 + len(card['members'])}")
    for key in ("backbone", "on_top_of", "method", "task", "metrics"):
        if card.get(key) is not None:
            rows.append(key)
            rows += [f"  {name:20} {_value_text(value)}" for name, value in card[key].items()]
    training = card.get("training", {})
    if training:
        rows.append("training")
        for key in ("seed", "rows", "epoch", "seconds", "processes", "data"):
            if key in training:
                rows.append(f"  {key:20} {_value_text(training[key])}")
        for parent in training.get("composed", {}).get("parents", ()):
            text = f"{parent['weight']} times {parent['name']} ({parent['digest'][:19]})"
            rows.append(f"  {'composed of':20} {text}")
        for member in training.get("members", ()):
            rows.append(f"  {'further member':20} seed {member['seed']}, epoch {member['epoch']}")
        intervals = training.get("intervals")
        for split, ends in intervals.items() if isinstance(intervals, Mapping) else ():
            rows.append(f"  {f'95% of {split}':20} {_value_text(ends)}")
    if card.get("report"):
        rows.append("report")
        rows += [f"  {file}" for file in card["report"]]
    rows.append("tensors")
    rows += [f"  {name} {shape}" for name, shape in card["tensors"].items()]
    return "\n".join(rows)


def _value_text(value: Any) -> str:
    if value is None:
        return "automatic"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_number_text(inner)}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number_text(value: Any) -> str:
    """A number, or the ends of an interval."""
    if isinstance(value, list):
        return " to ".join(map(_number_text, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
