"""Metrics of an extracted summary: ROUGE with a reference, and the right sentences."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from .base import Metric, MetricKind, mean
from .rouge import rouge_l, rouge_n, rouge_words

Summary = Mapping[str, Any]


def rouge_of_n(n: int, predicted: Summary, reference: Summary) -> float:
    """ROUGE-n of a row."""
    return rouge_n(rouge_words(predicted["text"]), rouge_words(reference["text"]), n)


def rouge_of_order(predicted: Summary, reference: Summary) -> float:
    """ROUGE-L of a row."""
    return rouge_l(rouge_words(predicted["text"]), rouge_words(reference["text"]))


def common(predicted: Summary, reference: Summary) -> int:
    """Number of a row's chosen sentences that are right."""
    return len(set(predicted["sentences"]) & set(reference["sentences"]))


def precision(predicted: Summary, reference: Summary) -> float:
    """Share of a row's chosen sentences that are right."""
    return common(predicted, reference) / max(1, len(predicted["sentences"]))


def recall(predicted: Summary, reference: Summary) -> float:
    """Share of a row's right sentences that are chosen."""
    return common(predicted, reference) / max(1, len(reference["sentences"]))


def f1(predicted: Summary, reference: Summary) -> float:
    """F1 of a row's sentences."""
    return (
        2
        * common(predicted, reference)
        / max(1, len(predicted["sentences"]) + len(reference["sentences"]))
    )


SUMMARY = {"text": "string", "sentences": ["int64"]}


class Summaries(MetricKind):
    """A row is a text and the indices of its sentences; every metric is a mean over the rows."""

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
        **{f"rouge_{n}": mean(partial(rouge_of_n, n)) for n in (1, 2, 3)},
        "rouge_l": mean(rouge_of_order),
        "precision": mean(precision),
        "recall": mean(recall),
        "f1": mean(f1),
    }
