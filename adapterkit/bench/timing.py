"""Times of systems that run in turns: medians, spreads and ratios of medians.

Systems run in turns, so that a drift of the machine's speed changes the times of all of them alike.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from tqdm import tqdm

Computation = Callable[[], object]
Clock = Callable[[], float]
"""A clock in seconds: `time.perf_counter`, or the processor time of this process."""


def take_turns(
    systems: Mapping[str, Computation],
    rounds: int,
    warm_up: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Runs every system once in each round and returns its times.

    The order is drawn anew for each round, so that no system always follows the same other one.

    Args:
        systems: Name and run of each system.
        rounds: Number of rounds that count, at least one.
        warm_up: Number of rounds before them, which do not count.
        clock: What is read before and after a run.

    Returns:
        Milliseconds of each round, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in systems}
    names = list(systems)
    with tqdm(total=(warm_up + rounds) * len(names), unit="run", disable=None) as bar:
        for turn in range(warm_up + rounds):
            for name in random.Random(turn).sample(names, len(names)):
                bar.set_description(name, refresh=False)
                milliseconds = timed(systems[name], clock)
                if turn >= warm_up:
                    times[name].append(milliseconds)
                bar.update()
    return times


def timed(run: Computation, clock: Clock = time.perf_counter) -> float:
    """Milliseconds of one run; a GPU is synchronised before and after."""
    _synchronize()
    began = clock()
    run()
    _synchronize()
    return 1000.0 * (clock() - began)


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def spread(measured: Sequence[float], unit: str) -> dict[str, float]:
    """The median under the name of its unit, with `min` and `max`."""
    return {
        unit: _rounded(statistics.median(measured)),
        "min": _rounded(min(measured)),
        "max": _rounded(max(measured)),
    }


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the first divided by the median of the second."""
    return _rounded(statistics.median(over) / statistics.median(under))


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
