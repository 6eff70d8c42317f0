"""How often an adapter gives each label, how sure it is, and how often it gives no answer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from .types import NOTHING, Decision

CONFIDENCE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Upper edges of the bins of confidence. They are narrower near 1, where most answers are."""


@dataclass
class AnswerDistribution:
    """Counts over the answers of one adapter.

    Attributes:
        rows: Number of rows.
        abstained: Number of rows without any label, entity or answer.
        labels: Number of rows by label. A row may have several.
        confidence: Number of rows by bin of `CONFIDENCE_EDGES`; rows without a score are in none.
        confidence_sum: Sum of the scores.
    """

    rows: int = 0
    abstained: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    confidence: list[int] = field(default_factory=lambda: [0] * len(CONFIDENCE_EDGES))
    confidence_sum: float = 0.0

    @classmethod
    def of(cls, decisions: Iterable[Decision]) -> Self:
        """The distribution of some decisions."""
        counts = cls()
        for decision in decisions:
            counts.count(decision)
        return counts

    def count(self, decision: Decision) -> None:
        """Adds one row."""
        self.rows += 1
        self.abstained += not decision.labels
        for label in decision.labels:
            self.labels[label] = self.labels.get(label, 0) + 1
        if decision.confidence is not None:
            place = bisect_left(CONFIDENCE_EDGES, decision.confidence)
            self.confidence[min(place, len(CONFIDENCE_EDGES) - 1)] += 1
            self.confidence_sum += decision.confidence

    def add(self, other: AnswerDistribution, times: int = 1) -> None:
        """Adds the rows of another distribution, or subtracts them if `times` is -1."""
        self.rows += times * other.rows
        self.abstained += times * other.abstained
        for label, n in other.labels.items():
            self.labels[label] = self.labels.get(label, 0) + times * n
        pairs = zip(self.confidence, other.confidence, strict=True)
        self.confidence = [mine + times * more for mine, more in pairs]
        self.confidence_sum += times * other.confidence_sum

    @property
    def categories(self) -> dict[str, int]:
        """Number of rows by label, and of those without one."""
        return {**self.labels, NOTHING: self.labels.get(NOTHING, 0) + self.abstained}

    def plain(self) -> dict[str, Any]:
        """Plain values, which JSON can hold; the most frequent label comes first."""
        labels = dict(sorted(self.labels.items(), key=lambda one: (-one[1], one[0])))
        return {
            "rows": self.rows,
            "abstained": self.abstained,
            "labels": labels,
            "confidence": list(self.confidence),
            "confidence_sum": round(self.confidence_sum, 6),
        }

    @classmethod
    def from_plain(cls, content: Any) -> Self:
        """The distribution of plain values, which may have further keys.

        Raises:
            ValueError: A value is missing or is not a count.
        """
        try:
            found = cls(
                content["rows"],
                content["abstained"],
                dict(content["labels"]),
                list(content["confidence"]),
                content["confidence_sum"],
            )
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                "expected rows, abstained, labels, confidence and confidence_sum"
            ) from None
        counts = [found.rows, found.abstained, *found.labels.values(), *found.confidence]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("expected counts of rows, as whole numbers")
        if type(found.confidence_sum) not in (int, float):
            raise ValueError("confidence_sum: expected a number")
        if len(found.confidence) != len(CONFIDENCE_EDGES):
            raise ValueError(f"confidence: expected {len(CONFIDENCE_EDGES)} counts")
        return found


def with_same_labels(
    first: AnswerDistribution, second: AnswerDistribution, other: str
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The categories of two distributions with the same keys in the same order.

    If one of them counts some labels together, the other is counted in the same way.

    Args:
        first, second: The distributions.
        other: The label under which labels are counted together.
    """
    one, two = dict(first.categories), dict(second.categories)
    for mine, theirs in ((one, two), (two, one)):
        if other in theirs:
            for label in mine.keys() - theirs.keys():
                mine[other] = mine.get(other, 0) + mine.pop(label)
    labels = sorted(one.keys() | two.keys())
    return {key: one.get(key, 0) for key in labels}, {key: two.get(key, 0) for key in labels}
