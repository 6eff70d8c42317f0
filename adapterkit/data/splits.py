"""Splits of rows: drawn shares, folds, and the first rows of a stream."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

from ..errors import DataError
from ..tasks.types import Row

SPLITS = ("train", "validation", "test")

BUFFER = 10_000
"""Number of rows of a stream among which the next one is drawn."""

Item = TypeVar("Item")
Stratum = Callable[[Row], Hashable]


def draw(
    rows: Sequence[Row], share: float, seed: int, stratum: Stratum
) -> tuple[list[Row], list[Row]]:
    """Sets a share of the rows of each stratum aside, at random.

    The only row of a label is not set aside: a label that is not trained cannot be evaluated. Its
    share is not taken from other labels instead.

    Returns:
        The remaining rows in their order, and the rows that were set aside.
    """
    aside: set[int] = set()
    generator = random.Random(seed)
    remainder = 0.0
    for indices in _strata(rows, stratum):
        # The rounding error of one label is carried over to the next, so that rare labels count.
        remainder += share * len(indices)
        size = min(int(remainder + 0.5), len(indices) - 1)
        remainder = min(remainder - size, 0.5)  # more is no rounding error, but a row that stays
        aside.update(generator.sample(indices, size))
    return _divided(rows, aside)


def fold(
    rows: Sequence[Row], folds: int, number: int, seed: int, stratum: Stratum
) -> tuple[list[Row], list[Row]]:
    """Sets one fold of the rows aside.

    Every row is in exactly one fold. The sizes of folds differ by at most one row, in total and for
    each stratum.

    Returns:
        The other rows in their order, and the rows of the fold.

    Raises:
        DataError: There are fewer rows than folds.
    """
    if len(rows) < folds:
        raise DataError(f"data.folds: {folds} folds need as many rows, there are {len(rows)}")
    generator = random.Random(seed)
    order: list[int] = []
    for indices in _strata(rows, stratum):
        order += generator.sample(indices, len(indices))
    return _divided(rows, set(order[number::folds]))


def _strata(rows: Sequence[Row], stratum: Stratum) -> list[list[int]]:
    """Indices of the rows of each stratum; the order of the strata does not depend on the rows'."""
    strata = defaultdict(list)
    for index, row in enumerate(rows):
        strata[stratum(row)].append(index)
    return [strata[key] for key in sorted(strata, key=str)]


def _divided(rows: Sequence[Row], aside: set[int]) -> tuple[list[Row], list[Row]]:
    kept = [row for index, row in enumerate(rows) if index not in aside]
    return kept, [rows[index] for index in sorted(aside)]


def shuffled(stream: Iterable[Item], seed: int, size: int = BUFFER) -> Iterator[Item]:
    """Shuffles a stream that is read once: each item is drawn among the next `size` items."""
    generator = random.Random(seed)
    buffer: list[Item] = []
    for item in stream:
        if len(buffer) < size:
            buffer.append(item)
            continue
        index = generator.randrange(size)
        buffer[index], item = item, buffer[index]
        yield item
    generator.shuffle(buffer)
    yield from buffer


def first(stream: Iterable[tuple[str | None, Row]], limit: int) -> Iterator[tuple[str | None, Row]]:
    """Yields the first rows of each split; a stream without splits is read no further."""
    counts: Counter[str | None] = Counter()
    for split, row in stream:
        counts[split] += 1
        if counts[split] <= limit:
            yield split, row
        full = [name for name in counts if counts[name] >= limit]
        if full == [None] or len(full) == len(SPLITS):
            return
