"""Names of labels: their spelling, and their index among those of a task."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from ..errors import DataError, did_you_mean

INVISIBLE = "\u200b\u2060\ufeff"
"""Zero-width space, word joiner and byte order mark: no part of a label at its ends."""


def spelling(label: str) -> str:
    """The spelling that labels are read in: Unicode NFC, one blank for a run of white space (U+00A0
    included), and neither white space nor invisible characters at the ends."""
    return " ".join(unicodedata.normalize("NFC", label).split()).strip(INVISIBLE + " ")


def known_labels(labels: tuple[str, ...] | None) -> tuple[str, ...]:
    """The labels of a fitted task."""
    if labels is None:
        raise ValueError("the task was not fitted: labels are open")
    return labels


def check_labels(labels: tuple[str, ...] | None, least: int = 2) -> None:
    """Checks the label names of a recipe.

    Args:
        labels: The names; None if the recipe has none.
        least: Least number of names.

    Raises:
        ValueError: A name is repeated, or there are too few.
    """
    if labels is not None and len(set(labels)) < max(least, len(labels)):
        expected = "two distinct names" if least == 2 else "one name, none twice"
        raise ValueError(f"labels: expected at least {expected}, got {list(labels)}")


def distinct_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """The sorted labels of training rows. Of `1` and `1.0` only the former is one: a table writes
    the latter for a column of numbers with a gap."""
    found = set(labels)
    return tuple(sorted(x for x in found if _as_integer(x) == x or _as_integer(x) not in found))


def find_label(label: str, labels: tuple[str, ...]) -> int | None:
    """Index of a row's label among those of a task; None if the task does not have it."""
    indices = _indices(labels)
    if label in indices:  # as a rule: rows are read in one spelling
        return indices[label]
    forms = (spelling(label), _as_integer(label))
    return next((indices[form] for form in forms if form in indices), None)


def label_index(label: str, labels: tuple[str, ...], where: str, name: str = "label") -> int:
    """As `find_label`, for a label that the task must have.

    Args:
        label: The label.
        labels: Labels of the task.
        where: File and row, for the message.
        name: What the task calls a label.

    Raises:
        DataError: The task does not have it.
    """
    index = find_label(label, labels)
    if index is None:
        raise DataError(
            f"{where}: {name} '{label}' is not one this task was trained on; "
            f"{did_you_mean(label, labels)} (a label without training rows must stand in "
            "task.labels)"
        )
    return index


def count_labels(names: Sequence[str], labels: tuple[str, ...]) -> Counter[str]:
    """Number of rows of each label of a task; rows with other labels do not count."""
    indices = (find_label(name, labels) for name in names)
    return Counter(labels[index] for index in indices if index is not None)


def similar_labels(labels: Iterable[str]) -> list[str]:
    """Warnings about labels that differ only in case or in the form of their characters, such as
    full-width letters: one for each group of them."""
    groups: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(unicodedata.normalize("NFKC", label).casefold(), []).append(label)
    return [
        f"the labels {' and '.join(map(repr, group))} differ only in case or in the form of "
        "their characters; if they mean the same, write them alike"
        for group in groups.values()
        if len(group) > 1
    ]


@lru_cache(maxsize=64)
def _indices(labels: tuple[str, ...]) -> dict[str, int]:
    """Index of each label by its name, its spelling and, for a whole number, its digits alone. A
    name takes precedence over another label's other forms."""
    found: dict[str, int] = {}
    for form in (str, spelling, _as_integer):
        for index, label in enumerate(labels):
            found.setdefault(form(label), index)
    return found


def _as_integer(label: str) -> str:
    """`1` for `1.0`; any other label unchanged."""
    digits, point, zeros = label.partition(".")
    return digits if point and digits.lstrip("-").isdecimal() and not zeros.strip("0") else label
