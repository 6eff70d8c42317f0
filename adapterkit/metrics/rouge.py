"""ROUGE: how much of a reference text another text has, by words, word pairs and word order.

Lin 2004, as F1, on lower-cased words without stemming; Chinese is counted by character.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from ..cjk import HAN

WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
"""A Chinese character, or a run of other letters and digits."""


def words_of(text: str) -> list[str]:
    """What is counted of a text."""
    return WORD.findall(text.lower())


def rouge_n(said: Sequence[str], reference: Sequence[str], n: int) -> float:
    """F1 of the runs of n words that two texts have in common, each as often as both have it.

    With precision p, the share of the said runs, and recall r, that of the reference's:
    `2 p r / (p + r)`, which is twice the common runs over the runs of both. 0 without any.
    """
    one, other = _runs(said, n), _runs(reference, n)
    return _f1((one & other).total(), one.total(), other.total())


def rouge_l(said: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the longest common subsequence: words in the same order, others between them or not.

    Each text counts as one sequence, whatever its sentences.
    """
    return _f1(longest_common(said, reference), len(said), len(reference))


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    A row of the usual table is held as the bits of one number, in which a zero marks where the
    length grows (Hyyrö 2004): as fast for long texts as a list is for short ones.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & full
    return len(one) - row.bit_count()


def _runs(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _f1(common: int, said: int, reference: int) -> float:
    return 2 * common / (said + reference) if said + reference else 0.0
