"""Regression: a number for a text or a text pair, such as the similarity of two texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.sequence_head import SequenceHead
from ..metrics.base import Predictions
from .columns import Column
from .fields import FieldKind
from .foreign_head import ForeignHead
from .pooled import PooledTask, mean_score
from .types import Answer, AnswerSummary, Example, Outputs, Row, Score

MOST_NUMBERS = 500
"""Most rows whose numbers are kept for a plot."""


@dataclass(frozen=True)
class Regression(PooledTask):
    """One number for each text; the head learns it as (number - center) / spread.

    Attributes:
        center: Mean of the training rows; set by training.
        spread: Their standard deviation; set by training.
        minimum: Their smallest number, one end of a scale; set by training.
        maximum: Their largest number, the other end; set by training.
    """

    type: ClassVar[str] = "regression"
    pipeline_tag: ClassVar[str | None] = "text-classification"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    transformers_model: ClassVar[str | None] = "AutoModelForSequenceClassification"
    foreign: ClassVar[bool] = True
    problem_type: ClassVar[str | None] = "regression"
    columns: ClassVar[Mapping[str, Column]] = {
        **PooledTask.columns,
        "label": Column(FieldKind.NUMBER, "the number", learned=True),
    }
    metric_kind: ClassVar[str] = "numbers"
    main_metric: ClassVar[str] = "spearman"
    tensor_keys: ClassVar[tuple[str, ...]] = ("score",)

    center: float | None = None
    spread: float | None = None
    minimum: float | None = None
    maximum: float | None = None

    @property
    def n_outputs(self) -> int:
        return 1

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        numbers = torch.tensor([row.fields["label"] for row in rows])
        spread = float(numbers.std(correction=0)) or 1.0
        pooling = self.pooling or pooling
        return replace(
            self,
            pooling=pooling,
            center=float(numbers.mean()),
            spread=spread,
            minimum=float(numbers.min()),
            maximum=float(numbers.max()),
        )

    @classmethod
    def from_head(cls, head: ForeignHead) -> Self:
        if head.n_outputs != 1:
            raise ValueError(f"a head of {head.n_outputs} numbers; regression here has one")
        return cls(
            pooling=head.pooling,
            hidden_activation=head.hidden_activation,
            hidden_norm_eps=head.hidden_norm_eps,
            center=0.0,
            spread=1.0,
        )

    def transformers_head(self, head: SequenceHead | None) -> Mapping[str, str] | None:
        """As for other heads, if the number is the logit itself."""
        is_logit = (self.center, self.spread) == (0.0, 1.0)
        return super().transformers_head(head) if is_logit else None

    def transformers_form(self, head: Mapping[str, Tensor]) -> tuple[Self, Mapping[str, Tensor]]:
        """The logit is the number itself there, so the last linear layer returns it."""
        if self.center is None or self.spread is None:
            raise ValueError("the task was not fitted: center is open")
        weight = head["classifier.weight"] * self.spread
        bias = head["classifier.bias"] * self.spread + self.center
        plain = replace(self, center=0.0, spread=1.0)
        return plain, {**head, "classifier.weight": weight, "classifier.bias": bias}

    def label_values(self, row: Row) -> Sequence[str | float]:
        return [float(row.fields["label"])]

    def target(self, row: Row, example: Example) -> float:
        return float(row.fields["label"])

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Squared error in units of the spread, `[n]`."""
        logits = outputs.means()[:, 0].float()
        numbers = torch.tensor(targets, device=logits.device)
        return (logits - (numbers - (self.center or 0.0)) / (self.spread or 1.0)) ** 2

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"score"}`: the number."""
        return [{"score": value} for value in self._values(outputs)]

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(f"{answer['score']:.3f}")

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The number itself."""
        mean = mean_score("number", outputs.logits)
        return [Score(mean.name, mean.weights * (self.spread or 1.0), self.center or 0.0)]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """Each row's number, in the units of the rows."""
        return Predictions(np.array(self._values(outputs)), np.array(targets, dtype=float))

    def report(self, predictions: Predictions) -> dict[str, Any]:
        pairs = zip(predictions.references, predictions.predicted, strict=True)
        step = -(-len(predictions.predicted) // MOST_NUMBERS)
        return {"numbers": [[round(float(n), 4) for n in pair] for pair in pairs][::step]}

    def _values(self, outputs: Outputs) -> list[float]:
        values: list[float] = outputs.means()[:, 0].float().tolist()
        return [value * (self.spread or 1.0) + (self.center or 0.0) for value in values]
