"""Regression: a number for a text, or how alike the two texts of a pair are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..batch import Pooling
from ..pooled import PooledTask
from ..task import Answer, Example, Outputs, Row


@dataclass(frozen=True)
class Regression(PooledTask):
    """One number for each text, learnt in units of the training rows' spread.

    Attributes:
        center: The training rows' mean, filled in.
        spread: Their standard deviation, filled in.
    """

    type: ClassVar[str] = "regression"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    learns: ClassVar[Mapping[str, str]] = {"label": "number"}
    main_metric: ClassVar[str] = "spearman"

    center: float | None = None
    spread: float | None = None

    @property
    def n_outputs(self) -> int:
        return 1

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        goal = torch.tensor([row.fields["label"] for row in rows])
        spread = float(goal.std(correction=0)) or 1.0
        pooling = self.pooling or pooling
        return replace(self, pooling=pooling, center=float(goal.mean()), spread=spread)

    def target(self, row: Row, example: Example) -> float:
        return float(row.fields["label"])

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Squared error in units of the spread, `[n]`."""
        said = outputs.means()[:, 0].float()
        goal = torch.tensor(targets, device=said.device)
        return (said - (goal - (self.center or 0.0)) / (self.spread or 1.0)) ** 2

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"score"}`: the number."""
        return [{"score": value} for value in self._values(outputs)]

    def metrics(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> dict[str, float]:
        """Pearson's and Spearman's correlation (0 where a side is constant), and mean absolute
        error."""
        from scipy.stats import pearsonr, spearmanr

        said = self._values(outputs)
        constant = len(set(said)) < 2 or len(set(targets)) < 2
        return {
            "pearson": 0.0 if constant else float(pearsonr(said, targets).statistic),
            "spearman": 0.0 if constant else float(spearmanr(said, targets).statistic),
            "mae": sum(abs(a - b) for a, b in zip(said, targets, strict=True)) / len(said),
        }

    def _values(self, outputs: Outputs) -> list[float]:
        values: list[float] = outputs.means()[:, 0].float().tolist()
        return [value * (self.spread or 1.0) + (self.center or 0.0) for value in values]
