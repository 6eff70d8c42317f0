"""How time and memory grow with the size of an input."""

from __future__ import annotations

import gc
import math
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adapterkit.text_table import table

FACTORS = (1, 2, 4, 8)
"""Sizes that are measured, as multiples of the first."""

MOST = 1.1
"""Exponents above it fail a test; 1 is linear. A report marks them."""

LEAST_ROUNDS, MOST_ROUNDS, ROUNDS_SECONDS = 3, 15, 1.0
"""Work is timed for each size in rounds, of which the fastest counts: as many as last this long."""


@dataclass(frozen=True)
class Growth:
    """What some work took for inputs of growing sizes.

    Attributes:
        work: Its name.
        seconds: Processor time of the whole process, for each size.
        peaks: Most bytes that Python had allocated during the work, for each size.
    """

    work: str
    seconds: tuple[float, ...]
    peaks: tuple[float, ...]

    @classmethod
    def of(cls, work: str, run: Callable[[Any], object], inputs: Sequence[Any]) -> Growth:
        """Measures work on inputs whose sizes are `FACTORS`.

        Args:
            work: Its name.
            run: Does it for one input.
            inputs: The inputs.
        """
        run(inputs[0])
        gc.collect()
        gc.freeze()  # what exists already is no part of the work, also where garbage is collected
        # Sizes take turns, so that a slow moment of the machine does not meet only one of them.
        rounds: list[list[float]] = []
        while len(rounds) < LEAST_ROUNDS or (
            len(rounds) < MOST_ROUNDS and sum(map(sum, rounds)) < ROUNDS_SECONDS
        ):
            rounds.append([_seconds(run, one) for one in inputs])
        seconds = tuple(map(min, zip(*rounds, strict=True)))
        return cls(work, seconds, tuple(_peak(run, one) for one in inputs))

    @property
    def exponents(self) -> tuple[float, float]:
        """Of time and of memory: the slope of a straight line in logarithms."""
        return _slope(self.seconds), _slope(self.peaks)


def growth_table(rows: Sequence[Growth]) -> str:
    """A table of measurements; an exponent above `MOST` has an exclamation mark."""
    header = ["work", *(f"{factor}x ms" for factor in FACTORS), "time", "8x MB", "memory"]
    return table(
        header,
        [
            [
                row.work,
                *(f"{1000 * s:.0f}" for s in row.seconds),
                _marked(row.exponents[0]),
                f"{row.peaks[-1] / 1e6:.1f}",
                _marked(row.exponents[1]),
            ]
            for row in rows
        ],
    )


def _marked(exponent: float) -> str:
    return f"{exponent:.2f}{'!' if exponent > MOST else ''}"


def _seconds(run: Callable[[Any], object], one: Any) -> float:
    began = time.process_time()
    run(one)
    return time.process_time() - began


def _peak(run: Callable[[Any], object], one: Any) -> float:
    tracemalloc.start()
    try:
        run(one)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _slope(values: Sequence[float]) -> float:
    xs = [math.log(factor) for factor in FACTORS]
    ys = [math.log(max(value, 1e-9)) for value in values]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return covariance / sum((a - x) ** 2 for a in xs)
