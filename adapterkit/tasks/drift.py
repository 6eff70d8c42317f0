"""The drift of an adapter's answers from those of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..metrics.divergence import (
    chance_limit,
    jensen_shannon_distance,
    population_stability_index,
)
from .answer_distribution import AnswerDistribution, with_same_labels

OTHER = "_other"
"""The label under which the labels beyond the most that are counted are counted together."""

LEAST_PSI = 0.1
"""Population stability index from which on a change that is no chance is reported (Siddiqi)."""


@dataclass(frozen=True)
class Divergence:
    """How far the counts of one kind are apart.

    Attributes:
        psi: Population stability index.
        limit: What chance alone exceeds once in a hundred times.
        js_distance: Jensen-Shannon distance, from 0 to 1.
        drifted: Whether psi is above the limit and at least `LEAST_PSI`.
    """

    psi: float
    limit: float
    js_distance: float
    drifted: bool

    @classmethod
    def of(cls, expected: Sequence[int], observed: Sequence[int]) -> Self | None:
        """The divergence of counts of the same categories; None if all of one side are zero."""
        some = [pair for pair in zip(expected, observed, strict=True) if any(pair)]
        if not any(expected) or not any(observed):
            return None
        if len(some) == 1:
            return cls(0.0, 0.0, 0.0, drifted=False)
        e, o = zip(*some, strict=True)
        psi, limit = population_stability_index(e, o), chance_limit(len(some), sum(e), sum(o))
        return cls(psi, limit, jensen_shannon_distance(e, o), psi > limit and psi >= LEAST_PSI)


@dataclass(frozen=True)
class Drift:
    """The drift of labels and of confidence; None where there are no counts."""

    labels: Divergence | None
    confidence: Divergence | None

    @classmethod
    def between(cls, reference: AnswerDistribution, observed: AnswerDistribution) -> Self:
        """The drift of observed answers from a reference."""
        one, two = with_same_labels(reference, observed, OTHER)
        return cls(
            Divergence.of([*one.values()], [*two.values()]),
            Divergence.of(reference.confidence, observed.confidence),
        )

    @property
    def parts(self) -> dict[str, Divergence]:
        """The divergence of each kind of counts."""
        found = {"labels": self.labels, "confidence": self.confidence}
        return {name: one for name, one in found.items() if one is not None}

    def plain(self) -> dict[str, Any]:
        """Plain values, which JSON can hold."""
        return {name: asdict(one) for name, one in self.parts.items()}
