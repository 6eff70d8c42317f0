"""Rows that repeat another row, inside a split and across splits."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

from ..tasks.base import Task
from ..tasks.columns import target_columns
from ..tasks.types import Row

EXAMPLES = 3
"""Number of duplicates that are shown of each kind."""


def duplicates(rows: Mapping[str, Sequence[Row]], task: Task) -> dict[str, Any]:
    """Rows that have the same text as another, apart from case, spaces and width of characters.

    Returns:
        `inside` each split and `across` each two (`"train, test"`): the number of `rows` that
        repeat another, how many of them have another answer (`differing`), and `examples`, pairs
        of places. A row that repeats one of an earlier split counts for the later one.
    """
    same: defaultdict[Any, defaultdict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    answer = target_columns(task.columns).keys()
    for split, part in rows.items():
        for row in part:
            same[_inputs(row, answer)][split].append(row)
    pairs: defaultdict[tuple[str, ...], list[tuple[Row, Row]]] = defaultdict(list)
    for group in same.values():
        for split, (first, *others) in group.items():
            pairs[split,] += [(first, other) for other in others]
        for one, two in combinations(group, 2):
            pairs[one, two] += [(group[one][0], other) for other in group[two]]
    by_splits = {
        ", ".join(key): _pairs_summary(found, task) for key, found in pairs.items() if found
    }
    inside = {key: value for key, value in by_splits.items() if key in rows}
    return {"inside": inside, "across": {k: v for k, v in by_splits.items() if k not in rows}}


def across(parts: Sequence[Sequence[Row]], task: Task) -> list[tuple[Row, Row]]:
    """The rows that have the same text as a row of another part, each with the first such row."""
    answer = target_columns(task.columns).keys()
    first: defaultdict[Any, dict[int, Row]] = defaultdict(dict)
    for number, part in enumerate(parts):
        for row in part:
            first[_inputs(row, answer)].setdefault(number, row)
    return [
        (row, other)
        for number, part in enumerate(parts)
        for row in part
        for other in [one for n, one in first[_inputs(row, answer)].items() if n != number][:1]
    ]


def _inputs(row: Row, answer: Collection[str]) -> Any:
    """What a task reads of a row, apart from case, spaces and width of characters.

    Args:
        row: The row.
        answer: Roles of the answer.
    """
    return _normal(tuple(row.fields[role] for role in sorted(row.fields.keys() - set(answer))))


def _pairs_summary(pairs: Sequence[tuple[Row, Row]], task: Task) -> dict[str, Any]:
    def differs(one: Row, two: Row) -> bool:
        return any(one.fields[role] != two.fields[role] for role in target_columns(task.columns))

    return {
        "rows": len(pairs),
        "differing": sum(differs(*pair) for pair in pairs),
        "examples": [(one.where, two.where) for one, two in pairs[:EXAMPLES]],
    }


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    return tuple(map(_normal, value)) if isinstance(value, tuple) else value
