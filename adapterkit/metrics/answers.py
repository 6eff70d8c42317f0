"""Metrics of an extracted answer and the right ones: those of SQuAD, of CMRC, and one for both.

`f1` and `exact_match` count words as SQuAD does and Chinese characters one by one, without
punctuation of any script. `squad_...` and `cmrc_...` compute what the official scripts compute, for
comparison with published figures.
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
Tokenizer = Callable[[str], Sequence[str]]
Overlap = Callable[[Sequence[str], Sequence[str]], float]


def answer_words(text: str) -> list[str]:
    """Lower-cased words without punctuation and articles; each Chinese character is a word."""
    lowered = CHINESE.sub(lambda match: f" {match.group()} ", text.lower())
    kept = "".join(c for c in lowered if c not in string.punctuation and not _is_sign(c))
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def squad_words(text: str) -> list[str]:
    """Lower-cased words without ASCII punctuation and articles (Rajpurkar et al. 2016)."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return ARTICLE.sub(" ", kept).split()


def cmrc_characters(text: str) -> list[str]:
    """All characters, spaces included, but the signs of CMRC (Cui et al. 2019)."""
    return [c for c in text.lower().strip() if c not in CMRC_SIGNS]


def cmrc_words(text: str) -> list[str]:
    """Words without signs; each Chinese character is a word. Other scripts are split at spaces; the
    official script uses NLTK for them."""
    return CHINESE.sub(lambda match: f" {match.group()} ", "".join(cmrc_characters(text))).split()


def word_f1(one: Sequence[str], other: Sequence[str]) -> float:
    """F1 of the words that two answers have in common, in any order."""
    if not one or not other:
        return float(one == other)
    return 2 * sum((Counter(one) & Counter(other)).values()) / (len(one) + len(other))


def run_f1(one: Sequence[str], other: Sequence[str]) -> float:
    """F1 of the longest common run of words of two answers, as in CMRC."""
    if not one or not other:
        return float(one == other)
    run = SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
    return 2 * run.size / (len(one) + len(other))


def same(one: Sequence[str], other: Sequence[str]) -> float:
    """1 if two answers are equal, else 0."""
    return float(list(one) == list(other))


def best(words: Tokenizer, overlap: Overlap) -> Metric:
    """The metric that is the best overlap with any right answer of a row, averaged over the rows.

    As in SQuAD 2.0 a right answer without a word left is ignored unless there is no other, and a
    row without a right answer is right if the prediction is empty.

    Args:
        words: From a text to what is compared.
        overlap: From two texts' words to their overlap, 0 to 1.
    """

    def value(predicted: str, texts: Sequence[str]) -> float:
        references = [found for text in texts if (found := words(text))] or [[]]
        return max(overlap(words(predicted), reference) for reference in references)

    return mean(value)


def _is_sign(character: str) -> bool:
    """Whether a character is punctuation in any script."""
    return unicodedata.category(character).startswith("P")


class Answers(MetricKind):
    """A prediction is a text, empty for none; a reference is a list of texts."""

    type: ClassVar[str] = "answers"
    features: ClassVar[dict[str, Any]] = {"predictions": "string", "references": ["string"]}
    defaults: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    metrics: ClassVar[dict[str, Metric]] = {
        "f1": best(answer_words, word_f1),
        "exact_match": best(answer_words, same),
        "squad_f1": best(squad_words, word_f1),
        "squad_exact_match": best(squad_words, same),
        "cmrc_f1": best(cmrc_words, run_f1),
        "cmrc_exact_match": best(cmrc_characters, same),
    }
