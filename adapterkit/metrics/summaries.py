"""Metrics of an extracted summary: ROUGE against a reference, and the right sentences."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from .base import Metric, MetricKind, mean
from .rouge import rouge_l, rouge_n, words_of

Summary = Mapping[str, Any]


def of_n(n: int, said: Summary, goal: Summary) -> float:
    """ROUGE of runs of n words."""
    return rouge_n(words_of(said["text"]), words_of(goal["text"]), n)


def in_order(said: Summary, goal: Summary) -> float:
    """ROUGE-L."""
    return rouge_l(words_of(said["text"]), words_of(goal["text"]))


def common(said: Summary, goal: Summary) -> int:
    return len(set(said["sentences"]) & set(goal["sentences"]))


def precision(said: Summary, goal: Summary) -> float:
    """The share of a row's chosen sentences that are right."""
    return common(said, goal) / max(1, len(said["sentences"]))


def recall(said: Summary, goal: Summary) -> float:
    """The share of a row's right sentences that are chosen."""
    return common(said, goal) / max(1, len(goal["sentences"]))


def f1(said: Summary, goal: Summary) -> float:
    return 2 * common(said, goal) / max(1, len(said["sentences"]) + len(goal["sentences"]))


SUMMARY = {"text": "string", "sentences": ["int64"]}


class Summaries(MetricKind):
    """A row is its text and the numbers of its sentences; every metric is a mean over rows."""

    type: ClassVar[str] = "summaries"
    features: ClassVar[dict[str, Any]] = {"predictions": SUMMARY, "references": SUMMARY}
    defaults: ClassVar[tuple[str, ...]] = (
        "rouge_1",
        "rouge_2",
        "rouge_l",
        "precision",
        "recall",
        "f1",
    )
    metrics: ClassVar[dict[str, Metric]] = {
        **{f"rouge_{n}": mean(partial(of_n, n)) for n in (1, 2, 3)},
        "rouge_l": mean(in_order),
        "precision": mean(precision),
        "recall": mean(recall),
        "f1": mean(f1),
    }
