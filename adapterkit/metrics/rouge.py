"""ROUGE: the overlap of a text with a reference text, by words, word pairs and word order.

Lin 2004, as F1, on lower-cased words without stemming; each Chinese character is a word.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from ..cjk import HAN

WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
"""A Chinese character, or a run of other letters and digits."""


def rouge_words(text: str) -> list[str]:
    """The lower-cased words of a text."""
    return WORD.findall(text.lower())


def rouge_n(predicted: Sequence[str], reference: Sequence[str], n: int) -> float:
    """F1 of the n-grams that two texts have in common, each as often as both have it.

    With precision p, the share of the predicted n-grams, and recall r, that of the reference's,
    it is `2 p r / (p + r)`: twice the common n-grams over the n-grams of both. 0 if there are none.
    """
    one, other = _n_grams(predicted, n), _n_grams(reference, n)
    return _f1((one & other).total(), one.total(), other.total())


def rouge_l(predicted: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the longest common subsequence: words in the same order, perhaps with others between.

    Each text is one sequence; its sentences are not compared separately.
    """
    return _f1(longest_common(predicted, reference), len(predicted), len(reference))


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    A row of the table of dynamic programming is one integer, whose zero bits mark where the length
    grows (Hyyrö 2004). This is fast for long texts as well.
    """
    positions: dict[str, int] = defaultdict(int)
    for position, word in enumerate(one):
        positions[word] |= 1 << position
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(one) - row.bit_count()


def _n_grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _f1(common: int, predicted: int, reference: int) -> float:
    return 2 * common / (predicted + reference) if predicted + reference else 0.0
