"""Taking turns, and what is said of the times: medians, spreads and ratios of medians.

Systems take turns, so that a machine whose speed drifts slows all of them alike.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from tqdm import tqdm

Run = Callable[[], object]


def take_turns(systems: Mapping[str, Run], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Milliseconds of every system in every round, after some rounds to warm up.

    The order is drawn anew for each round: nobody always runs in the wake of the same other.

    Args:
        systems: What each one runs once in a round.
        rounds: Rounds that count, at least one.
        warm_up: Rounds before them.
    """
    times: dict[str, list[float]] = {name: [] for name in systems}
    names = list(systems)
    with tqdm(total=(warm_up + rounds) * len(names), unit="run", disable=None) as bar:
        for turn in range(warm_up + rounds):
            for name in random.Random(turn).sample(names, len(names)):
                bar.set_description(name, refresh=False)
                milliseconds = timed(systems[name])
                if turn >= warm_up:
                    times[name].append(milliseconds)
                bar.update()
    return times


def timed(run: Run) -> float:
    """Milliseconds of one run; a GPU is waited for before and after."""
    _settle()
    began = time.perf_counter()
    run()
    _settle()
    return 1000.0 * (time.perf_counter() - began)


def _settle() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def spread(measured: Sequence[float], unit: str) -> dict[str, float]:
    """The median under the name of its unit, and `min` and `max` beside it."""
    return {
        unit: _rounded(statistics.median(measured)),
        "min": _rounded(min(measured)),
        "max": _rounded(max(measured)),
    }


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median over median: how many times the first is the second."""
    return _rounded(statistics.median(over) / statistics.median(under))


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
