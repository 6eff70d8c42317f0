"""Multi-label classification: any number of labels for a text, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.packing import Pooling
from ..errors import DataError
from ..metrics.base import Array, Predictions
from ..metrics.per_class import per_class
from .columns import Column
from .fields import ONE_HOT, FieldKind
from .foreign_head import ForeignHead
from .labels import check_labels, distinct_labels, known_labels, label_index
from .pooled import PooledTask, mean_score, ranked
from .thresholds import best_threshold
from .types import NOTHING, Answer, AnswerSummary, Decision, Example, Outputs, Row, Score

HALF = 0.5
ENOUGH = 20
"""Least number of rows with a label, and of rows without it, for a threshold of its own."""


@dataclass(frozen=True)
class MultiLabel(PooledTask):
    """Each of C labels applies or not, independently of the others.

    Attributes:
        labels: Label names in order. If omitted: the sorted labels of the training rows.
        threshold: Least probability of a label that is answered: one number, or a list with one for
            each label. tuned chooses one number on the validation rows after training.
            tuned_per_label chooses one for each label that at least 20 of these rows have and 20 do
            not have; the other labels share that of tuned. Both maximise F1 on the validation rows,
            so only the test score is unbiased.
    """

    type: ClassVar[str] = "multi_label"
    pipeline_tag: ClassVar[str | None] = "text-classification"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    transformers_model: ClassVar[str | None] = "AutoModelForSequenceClassification"
    foreign: ClassVar[bool] = True
    problem_type: ClassVar[str | None] = "multi_label_classification"
    columns: ClassVar[Mapping[str, Column]] = {
        **PooledTask.columns,
        "labels": Column(
            FieldKind.LABELS,
            "the labels: a list, or labels with | between them; a list of columns reads a 0/1 "
            "column a label",
            learned=True,
        ),
    }
    metric_kind: ClassVar[str] = "labels"
    score_function: ClassVar[str | None] = "sigmoid"
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
        """Least probability of each label that is answered."""
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
        labels = self.labels or distinct_labels(x for row in rows for x in row.fields["labels"])
        if not labels:
            raise DataError("multi_label needs at least one label; no training row has any")
        if set(labels) <= ONE_HOT.keys():
            raise DataError(
                f"multi_label found the labels {', '.join(labels)} alone, as in multi-hot vectors; "
                "name the labels of a row, or a 0/1 column a label: data: {labels: [toxic, insult]}"
            )
        return replace(self, labels=labels, pooling=self.pooling or pooling)

    @classmethod
    def from_head(cls, head: ForeignHead) -> Self:
        return cls(
            pooling=head.pooling,
            hidden_activation=head.hidden_activation,
            hidden_norm_eps=head.hidden_norm_eps,
            labels=head.label_names,
        )

    def label_values(self, row: Row) -> Sequence[str | float]:
        return tuple(row.fields["labels"])

    def target(self, row: Row, example: Example) -> list[float]:
        labels = known_labels(self.labels)
        given = {label_index(label, labels, row.where) for label in row.fields["labels"]}
        return [float(index in given) for index in range(len(labels))]

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Binary cross-entropy summed over the labels, `[n]`."""
        logits = outputs.means().float()
        labels = torch.tensor(targets, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(-1)

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"labels", "scores"}`: the labels above the threshold and every label's probability."""
        found, labels = [], known_labels(self.labels)
        least = dict(zip(labels, self.thresholds, strict=True))
        for probabilities in outputs.means().float().sigmoid().tolist():
            best = ranked(labels, probabilities)
            given = [label for label, score in best if score >= least[label]]
            found.append({"labels": given, "scores": dict(best)})
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(", ".join(answer["labels"]) or NOTHING)

    def decision(self, answer: Answer) -> Decision:
        """The confidence is that of the least sure label: each of them is right with its
        probability, or with the rest of it if it is not answered."""
        given, scores = set(answer["labels"]), answer["scores"]
        sure = (score if label in given else 1 - score for label, score in scores.items())
        return Decision(tuple(answer["labels"]), min(sure))

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The logit of each answered label; if none is answered, of the most probable one."""
        labels = known_labels(self.labels)
        probabilities = outputs.means()[0].float().sigmoid().tolist()
        best = sorted(range(len(labels)), key=lambda column: -probabilities[column])
        given = [column for column in best if probabilities[column] >= self.thresholds[column]]
        return [mean_score(labels[c], outputs.logits, c) for c in given or best[:1]]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """1 for each label that is answered, else 0."""
        probabilities = outputs.means().float().sigmoid().double().numpy()
        given = (probabilities >= np.array(self.thresholds)).astype(int)
        return Predictions(given, np.array(targets, dtype=int), probabilities)

    def report(self, predictions: Predictions) -> dict[str, Any]:
        names, predicted = known_labels(self.labels), predictions.predicted
        return {"per_class": per_class(names, range(len(names)), predicted, predictions.references)}

    def tune(self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]) -> Self:
        if self.tunable_key is None:
            return self
        predictions = self.predictions(outputs, examples, targets)
        probabilities, labels = predictions.probabilities, predictions.references
        shared = f1_threshold(probabilities.ravel(), labels.ravel())
        if self.threshold == "tuned":
            return replace(self, threshold=shared)
        enough = [min(sum(column), len(column) - sum(column)) >= ENOUGH for column in labels.T]
        own = [
            f1_threshold(probabilities[:, label], labels[:, label]) if is_enough else shared
            for label, is_enough in enumerate(enough)
        ]
        return replace(self, threshold=tuple(own))


def f1_threshold(probabilities: Array, labels: Array) -> float:
    """Returns the threshold with the highest F1.

    Args:
        probabilities: Probabilities of a label, `[n]`.
        labels: 1 if the label is right, else 0, `[n]`.
    """
    total, lowest = labels.sum(), probabilities.min()
    return best_threshold(
        probabilities,
        np.stack([labels, np.ones_like(labels)], axis=1),
        lambda above: 2 * above[:, 0] / np.maximum(above[:, 1] + total, 1),
        HALF,
        ends=[lowest / 2] if lowest > 0 else [],
    )
