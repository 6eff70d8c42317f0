"""PSI and the Jensen-Shannon distance against scipy and a plain loop."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from adapterkit.metrics.divergence import (
    chance_limit,
    jensen_shannon_distance,
    population_stability_index,
)

COUNTS = ([3, 1, 0, 9], [1, 1, 1, 1], [0, 0, 40, 2], [500, 30, 2, 0], [0, 7, 0, 0])


@pytest.mark.parametrize(("expected", "observed"), [*pairwise(COUNTS), (COUNTS[0], COUNTS[0])])
def test_both_figures_equal_their_references(expected: list[int], observed: list[int]) -> None:
    found = jensen_shannon_distance(expected, observed)
    assert found == pytest.approx(float(jensenshannon(expected, observed, base=2)), abs=1e-7)
    assert found == pytest.approx(jensen_shannon_distance(observed, expected), abs=1e-12)
    total = 0.0
    for e, o in zip(expected, observed, strict=True):
        was = (e + 0.5) / (sum(expected) + 0.5 * len(expected))
        now = (o + 0.5) / (sum(observed) + 0.5 * len(observed))
        total += (now - was) * math.log(now / was)
    assert population_stability_index(expected, observed) == pytest.approx(total, abs=1e-12)


def test_equal_shares_have_no_distance_and_disjoint_ones_the_largest() -> None:
    assert jensen_shannon_distance([1, 2], [10, 20]) == pytest.approx(0.0, abs=1e-7)
    assert jensen_shannon_distance([5, 0], [0, 3]) == pytest.approx(1.0)


def test_samples_of_one_population_seldom_exceed_the_limit() -> None:
    draws = np.random.default_rng(0)
    shares, sizes = [0.5, 0.3, 0.15, 0.05], (300, 2000)
    limit = chance_limit(4, *sizes)
    samples = [(draws.multinomial(n, shares, 2000)) for n in sizes]
    above = [population_stability_index(*pair) > limit for pair in zip(*samples, strict=True)]
    assert 0.003 < np.mean(above) < 0.02
