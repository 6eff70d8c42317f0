"""Metrics of an extracted answer beside the right ones: SQuAD's, CMRC's, and one for both.

`f1` and `exact_match` take words as SQuAD does and Chinese characters one by one, and leave out the
punctuation of any script. `squad_...` and `cmrc_...` are what the official scripts say, for tables
that are to be compared with published ones.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any, ClassVar

from ..cjk import HAN
from .base import Metric, MetricKind, mean

CHINESE = re.compile(f"[{HAN}]")
CMRC_SIGNS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")  # noqa: RUF001
ARTICLE = re.compile(r"\b(a|an|the)\b")
Words = Callable[[str], Sequence[str]]
Overlap = Callable[[Sequence[str], Sequence[str]], float]


def words_of(text: str) -> list[str]:
    """Lower case, no punctuation, no articles; Chinese characters one by one."""
    lowered = CHINESE.sub(lambda match: f" {match.group()} ", text.lower())
    kept = "".join(c for c in lowered if c not in string.punctuation and not _is_sign(c))
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def squad_words(text: str) -> list[str]:
    """Lower case, no ASCII punctuation, no articles (Rajpurkar et al. 2016)."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return ARTICLE.sub(" ", kept).split()


def cmrc_characters(text: str) -> list[str]:
    """Every character but CMRC's signs, spaces included (Cui et al. 2019)."""
    return [c for c in text.lower().strip() if c not in CMRC_SIGNS]


def cmrc_words(text: str) -> list[str]:
    """Chinese characters one by one, no signs; other scripts are cut at spaces, where the official
    script asks NLTK."""
    return CHINESE.sub(lambda match: f" {match.group()} ", "".join(cmrc_characters(text))).split()


def word_f1(one: Sequence[str], other: Sequence[str]) -> float:
    """Harmonic mean of the shares of words that two answers have in common, in any order."""
    if not one or not other:
        return float(one == other)
    return 2 * sum((Counter(one) & Counter(other)).values()) / (len(one) + len(other))


def run_f1(one: Sequence[str], other: Sequence[str]) -> float:
    """Likewise of their longest common run of words, CMRC's measure."""
    if not one or not other:
        return float(one == other)
    run = SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
    return 2 * run.size / (len(one) + len(other))


def same(one: Sequence[str], other: Sequence[str]) -> float:
    return float(list(one) == list(other))


def best(words: Words, overlap: Overlap) -> Metric:
    """The best overlap with any of a row's right answers, averaged over the rows.

    As SQuAD 2.0 has it, right answers of which no word is left do not count unless there is no
    other, and a row without any is right where nothing is answered.
    """

    def value(said: str, texts: Sequence[str]) -> float:
        goals = [found for text in texts if (found := words(text))] or [[]]
        return max(overlap(words(said), goal) for goal in goals)

    return mean(value)


def _is_sign(character: str) -> bool:
    """Whether a character is punctuation in any script."""
    return unicodedata.category(character).startswith("P")


class Answers(MetricKind):
    type: ClassVar[str] = "answers"
    features: ClassVar[dict[str, Any]] = {"predictions": "string", "references": ["string"]}
    defaults: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    metrics: ClassVar[dict[str, Metric]] = {
        "f1": best(words_of, word_f1),
        "exact_match": best(words_of, same),
        "squad_f1": best(squad_words, word_f1),
        "squad_exact_match": best(squad_words, same),
        "cmrc_f1": best(cmrc_words, run_f1),
        "cmrc_exact_match": best(cmrc_characters, same),
    }
