"""What an alias means while a new version is tried: shares of the requests, and a shadow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..names import VERSION
from ..schema import build

MAX_VERSIONS = 8
"""Most versions that share the requests of an alias."""

MAX_WEIGHT = 1_000_000


@dataclass(frozen=True)
class PromotionRule:
    """When a shadow ends its rollout by itself.

    Attributes:
        rows: Number of compared rows after which it is decided.
        agreement: Least share of equal answers with which the alias is pointed at the shadow. With
            fewer, it is pointed at the main version.
    """

    rows: int
    agreement: float

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows: expected at least 1, got {self.rows}")
        if not 0.0 < self.agreement <= 1.0:
            raise ValueError(f"agreement: expected above 0 and at most 1, got {self.agreement}")


@dataclass(frozen=True)
class Rollout:
    """The versions behind an alias while a new one is tried.

    Attributes:
        weights: Weight by version, ascending: its part of the callers' requests.
        shadow: A version that also answers the requests, and whose answers are only compared.
        rule: When the shadow is promoted or given up.
        began: When it began, in UTC; None if it has not. Rollouts of the same versions differ in
            it, so what is counted of one does not end another.

    Raises:
        ValueError: There are no weights or too many, or one version alone.
    """

    weights: Mapping[int, int]
    shadow: int | None = None
    rule: PromotionRule | None = None
    began: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.weights) <= MAX_VERSIONS:
            raise ValueError(f"weights: expected 1 to {MAX_VERSIONS}, got {len(self.weights)}")
        for version, weight in self.weights.items():
            if not 1 <= weight <= MAX_WEIGHT:
                raise ValueError(
                    f"weights: expected 1 to {MAX_WEIGHT} for version {version}, got {weight}"
                )
        object.__setattr__(self, "weights", dict(sorted(self.weights.items())))
        if len(self.versions) < 2:
            raise ValueError("a rollout has two versions or more; an alias is enough for one")
        if self.rule is not None and self.shadow is None:
            raise ValueError("rule: it compares answers of a shadow; name a shadow")

    @property
    def versions(self) -> frozenset[int]:
        """All its versions."""
        return frozenset(self.weights) | ({self.shadow} if self.shadow is not None else frozenset())

    @property
    def main(self) -> int:
        """The version with the largest weight, of equal ones the lowest: what the alias means where
        one version is needed, and after a roll-back."""
        return max(self.weights, key=lambda version: (self.weights[version], -version))

    @property
    def candidate(self) -> int | None:
        """The only version beside the main one; None if there are several."""
        others = self.versions - {self.main}
        return next(iter(others)) if len(others) == 1 else None

    def choose(self, position: float) -> int:
        """The version of a caller.

        Versions have intervals in ascending order. So a caller that the newest version answers
        keeps it while its weight grows.

        Args:
            position: Where the caller stands, from 0 to 1 (exclusive).
        """
        left = position * sum(self.weights.values())
        for version, weight in self.weights.items():
            left -= weight
            if left < 0:
                return version
        return max(self.weights)

    def to_json(self) -> dict[str, Any]:
        """The rollout as a JSON object."""
        rule = None if self.rule is None else vars(self.rule)
        weights = {str(version): weight for version, weight in self.weights.items()}
        return {"weights": weights, "shadow": self.shadow, "rule": rule, "began": self.began}

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Rollout:
        """Reads what `to_json` returns.

        Raises:
            ValueError: It is not valid.
        """
        weights = content.get("weights")
        if not isinstance(weights, Mapping) or not all(map(_is_version, weights)):
            raise ValueError("weights: expected weights by version")
        numbered = {int(version): weight for version, weight in weights.items()}
        rule = content.get("rule")
        if rule is not None:
            rule = build(PromotionRule, rule, "rule")
        rollout: Rollout = build(cls, {**content, "weights": numbered, "rule": rule}, "")
        return rollout


def _is_version(text: object) -> bool:
    return isinstance(text, str) and VERSION.fullmatch(text) is not None
