"""How far two counts over the same categories are apart: PSI and the Jensen-Shannon distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import chi2

from .base import Array

SMOOTHING = 0.5
"""Added to every count of the population stability index, which is infinite if a category is empty
on one side: Jeffreys' prior, as in Krichevsky & Trofimov (1981)."""


def population_stability_index(expected: Sequence[int], observed: Sequence[int]) -> float:
    """The population stability index `sum((o - e) * ln(o / e))` of the shares e and o, which is
    Jeffreys' divergence (Jeffreys 1946).

    Siddiqi (Credit Risk Scorecards, 2006) reads less than 0.1 as no change, 0.1 to 0.25 as some
    change, and more as a shift. Each count has `SMOOTHING` added to it.

    Args:
        expected: Counts of each category, `[k]`.
        observed: Those that are compared with them, `[k]`.
    """
    e, o = _shares(expected, SMOOTHING), _shares(observed, SMOOTHING)
    return float(((o - e) * np.log(o / e)).sum())


def chance_limit(categories: int, expected: int, observed: int, level: float = 0.99) -> float:
    """The population stability index that two samples of one population exceed with probability
    `1 - level`: `(1 / m + 1 / n)` times that quantile of the chi-squared distribution with
    `categories - 1` degrees of freedom (Yurdakul & Naranjo, Statistical properties of the
    population stability index, 2020). For small samples it is only a rule of thumb.

    Args:
        categories: Number of categories.
        expected, observed: Sizes m and n of the samples.
        level: The probability to stay below it.
    """
    if categories < 2 or not expected or not observed:
        return math.inf
    return (1 / expected + 1 / observed) * _quantile(level, categories - 1)


def jensen_shannon_distance(expected: Sequence[int], observed: Sequence[int]) -> float:
    """The square root of the Jensen-Shannon divergence in bits (Lin 1991), which is a metric
    (Endres & Schindelin 2003): 0 for equal shares, 1 if no category has counts on both sides.

    Args:
        expected: Counts of each category, `[k]`, not all zero.
        observed: The others, `[k]`, not all zero.
    """
    p, q = _shares(expected), _shares(observed)
    mean = (p + q) / 2
    divergence = (_relative_entropy(p, mean) + _relative_entropy(q, mean)) / 2
    return math.sqrt(max(divergence, 0.0))  # rounding can leave it below zero


@cache  # it takes longer than all other sums of a comparison
def _quantile(level: float, freedom: int) -> float:
    return float(chi2.ppf(level, freedom))


def _shares(counts: Sequence[int], smoothing: float = 0.0) -> Array:
    smoothed = np.asarray(counts, dtype=float) + smoothing
    return np.asarray(smoothed / smoothed.sum())


def _relative_entropy(p: Array, q: Array) -> float:
    """The Kullback-Leibler divergence of p from q in bits; 0 * log 0 is 0."""
    some = p > 0
    return float((p[some] * np.log2(p[some] / q[some])).sum())
