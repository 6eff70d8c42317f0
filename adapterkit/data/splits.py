"""Training, validation and test rows: drawn shares, folds, and the first rows of a stream."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

from ..errors import DataError
from ..tasks.types import Row

SPLITS = ("train", "validation", "test")

BUFFER = 10_000
"""Rows of a stream among which the next one is drawn."""

Item = TypeVar("Item")
Stratum = Callable[[Row], Hashable]


def draw(
    rows: Sequence[Row], share: float, seed: int, stratum: Stratum
) -> tuple[list[Row], list[Row]]:
    """Sets a share of the rows aside, stratum by stratum, the order of the rest kept.

    A label's only row stays where it is: a label that was never trained cannot be checked.
    """
    aside: set[int] = set()
    generator = random.Random(seed)
    owed = 0.0
    for places in _strata(rows, stratum):
        # What rounding leaves of one label's share is owed to the next: small labels count too.
        owed += share * len(places)
        taken = min(int(owed + 0.5), len(places) - 1)
        owed -= taken
        aside.update(generator.sample(places, taken))
    return _apart(rows, aside)


def fold(
    rows: Sequence[Row], folds: int, number: int, seed: int, stratum: Stratum
) -> tuple[list[Row], list[Row]]:
    """Sets one fold of the rows aside, the order of the rest kept.

    Every row is in exactly one fold; folds differ by at most one row, in all and of each stratum.

    Raises:
        DataError: There are fewer rows than folds.
    """
    if len(rows) < folds:
        raise DataError(f"data.folds: {folds} folds need as many rows, there are {len(rows)}")
    generator = random.Random(seed)
    dealt: list[int] = []
    for places in _strata(rows, stratum):
        dealt += generator.sample(places, len(places))
    return _apart(rows, set(dealt[number::folds]))


def _strata(rows: Sequence[Row], stratum: Stratum) -> list[list[int]]:
    """Places of the rows of each stratum, in an order that does not hang on the rows'."""
    strata = defaultdict(list)
    for place, row in enumerate(rows):
        strata[stratum(row)].append(place)
    return [strata[key] for key in sorted(strata, key=str)]


def _apart(rows: Sequence[Row], aside: set[int]) -> tuple[list[Row], list[Row]]:
    kept = [row for place, row in enumerate(rows) if place not in aside]
    return kept, [rows[place] for place in sorted(aside)]


def shuffled(stream: Iterable[Item], seed: int, size: int = BUFFER) -> Iterator[Item]:
    """A stream read once, each next item drawn among the `size` items at its head."""
    generator = random.Random(seed)
    held: list[Item] = []
    for item in stream:
        if len(held) < size:
            held.append(item)
            continue
        place = generator.randrange(size)
        held[place], item = item, held[place]
        yield item
    generator.shuffle(held)
    yield from held


def first(stream: Iterable[tuple[str | None, Row]], limit: int) -> Iterator[tuple[str | None, Row]]:
    """The first rows of each split; a stream whose rows name no split is read no further."""
    counts: Counter[str | None] = Counter()
    for split, row in stream:
        counts[split] += 1
        if counts[split] <= limit:
            yield split, row
        full = [name for name in counts if counts[name] >= limit]
        if full == [None] or len(full) == len(SPLITS):
            return
