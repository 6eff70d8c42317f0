"""Multi-label classification: any number of labels for a text, none included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.packing import Pooling
from ..errors import DataError, did_you_mean
from ..metrics.base import Array, Predictions
from ..metrics.per_class import per_class
from .columns import Column
from .fields import LABELS
from .pooled import PooledTask, check_labels, known_labels, mean_score, ranked
from .thresholds import best_cut
from .types import NOTHING, Answer, AnswerSummary, Example, Outputs, Row, Score

HALF = 0.5
ENOUGH = 20
"""Rows with a label, and rows without it, from which it may have a threshold of its own."""


@dataclass(frozen=True)
class MultiLabel(PooledTask):
    """Each of C labels is true or not, on its own.

    Attributes:
        labels: Label names in order; the sorted labels of the training rows where left out.
        threshold: Probability from which a label is given; one for all, or a list with one for each
            label. tuned chooses one for all on the validation rows after training, tuned_per_label
            one for each label that at least 20 of these rows have and 20 have not, the others
            sharing that of tuned. Either way F1 is made as high as it goes, so read the test score:
            that of the validation rows is flattered.
    """

    type: ClassVar[str] = "multi_label"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    columns: ClassVar[Mapping[str, Column]] = {
        **PooledTask.columns,
        "labels": Column(LABELS, "the labels: a list, or labels with | between them", learned=True),
    }
    metric_kind: ClassVar[str] = "labels"
    main_metric: ClassVar[str] = "f1_micro"

    labels: tuple[str, ...] | None = None
    threshold: float | tuple[float, ...] | Literal["tuned", "tuned_per_label"] = HALF

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels, least=1)
        if isinstance(self.threshold, str):
            return
        given = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        for value in given:
            if not 0.0 < value < 1.0:
                raise ValueError(f"threshold: expected between 0 and 1, got {value}")
        if isinstance(self.threshold, tuple) and len(given) != len(self.labels or ()):
            raise ValueError(
                f"threshold: {len(given)} for {len(self.labels or ())} labels; a list needs labels "
                "and has one for each"
            )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Probability from which each label is given."""
        if isinstance(self.threshold, tuple):
            return self.threshold
        return (HALF if isinstance(self.threshold, str) else self.threshold,) * self.n_outputs

    @property
    def tunable_key(self) -> str | None:
        return "threshold" if isinstance(self.threshold, str) else None

    @property
    def n_outputs(self) -> int:
        return len(known_labels(self.labels))

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        labels = self.labels or tuple(sorted({x for row in rows for x in row.fields["labels"]}))
        if not labels:
            raise DataError("multi_label needs at least one label; no training row has any")
        return replace(self, labels=labels, pooling=self.pooling or pooling)

    def label_values(self, row: Row) -> Sequence[str | float]:
        return tuple(row.fields["labels"])

    def target(self, row: Row, example: Example) -> list[float]:
        labels = known_labels(self.labels)
        for label in row.fields["labels"]:
            if label not in labels:
                raise DataError(
                    f"{row.where}: label '{label}' is not one this task was trained on; "
                    f"{did_you_mean(label, labels)}"
                )
        return [float(label in row.fields["labels"]) for label in labels]

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Binary cross-entropy summed over the labels, `[n]`."""
        logits = outputs.means().float()
        goal = torch.tensor(targets, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, goal, reduction="none").sum(-1)

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"labels", "scores"}`: the labels above the threshold and every label's probability."""
        found, labels = [], known_labels(self.labels)
        least = dict(zip(labels, self.thresholds, strict=True))
        for line in outputs.means().float().sigmoid().tolist():
            best = ranked(labels, line)
            given = [label for label, score in best if score >= least[label]]
            found.append({"labels": given, "scores": dict(best)})
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(", ".join(answer["labels"]) or NOTHING)

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The logit of each given label; of the best one where none is given."""
        chances, labels = outputs.means()[0].float().sigmoid().tolist(), known_labels(self.labels)
        best = sorted(range(len(chances)), key=lambda column: -chances[column])
        given = [column for column in best if chances[column] >= self.thresholds[column]]
        return [mean_score(labels[c], outputs.lines, c) for c in given or best[:1]]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """1 for each label that is given, else 0."""
        chances = outputs.means().float().sigmoid().double().numpy()
        given = (chances >= np.array(self.thresholds)).astype(int)
        return Predictions(given, np.array(targets, dtype=int), chances)

    def report(self, predictions: Predictions) -> dict[str, Any]:
        names, said, goal = (
            known_labels(self.labels),
            predictions.predicted,
            predictions.references,
        )
        return {"per_class": per_class(names, range(len(names)), said, goal)}

    def tune(self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]) -> Self:
        if self.tunable_key is None:
            return self
        held = self.predictions(outputs, examples, targets)
        chances, goals = held.probabilities, held.references
        shared = best_threshold(chances.ravel(), goals.ravel())
        if self.threshold == "tuned":
            return replace(self, threshold=shared)
        enough = [min(sum(column), len(column) - sum(column)) >= ENOUGH for column in goals.T]
        own = [
            best_threshold(chances[:, label], goals[:, label]) if is_enough else shared
            for label, is_enough in enumerate(enough)
        ]
        return replace(self, threshold=tuple(own))


def best_threshold(chances: Array, goals: Array) -> float:
    """The probability from which giving a label has the highest F1.

    Args:
        chances: Probabilities, `[n]`.
        goals: 1 where the label is right, else 0, `[n]`.
    """
    total, lowest = goals.sum(), chances.min()
    return best_cut(
        chances,
        np.stack([goals, np.ones_like(goals)], axis=1),
        lambda above: 2 * above[:, 0] / np.maximum(above[:, 1] + total, 1),
        HALF,
        ends=[lowest / 2] if lowest > 0 else [],
    )
