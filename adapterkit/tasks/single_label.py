"""Base class of tasks with one of several labels for each row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.packing import Pooling
from ..errors import DataError
from ..metrics.base import Predictions
from ..metrics.per_class import confusion, per_class
from ..schema import check_share
from .columns import Column
from .fields import FieldKind
from .labels import check_labels, count_labels, distinct_labels, known_labels, label_index
from .pooled import PooledTask, mean_score, ranked
from .types import Answer, AnswerSummary, Decision, Example, Outputs, Row, Score


@dataclass(frozen=True)
class SingleLabelTask(PooledTask):
    """One of C labels for each text.

    Attributes:
        labels: Label names in order. If omitted: the sorted labels of the training rows.
        label_smoothing: Share of the target probability that is spread over all labels.
        class_weights: balanced weighs the rows so that all labels have the same weight in total.
        weights: Weight of each label in the loss; class_weights sets it.
    """

    pipeline_tag: ClassVar[str | None] = "text-classification"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    transformers_model: ClassVar[str | None] = "AutoModelForSequenceClassification"
    columns: ClassVar[Mapping[str, Column]] = {
        **PooledTask.columns,
        "label": Column(FieldKind.LABEL, "the label", learned=True),
    }
    metric_kind: ClassVar[str] = "classes"
    main_metric: ClassVar[str] = "accuracy"
    score_function: ClassVar[str | None] = "softmax"
    tensor_keys: ClassVar[tuple[str, ...]] = ("label", "score")

    labels: tuple[str, ...] | None = None
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels)
        check_share(self, "label_smoothing")

    @property
    def n_outputs(self) -> int:
        return len(known_labels(self.labels))

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        names = [row.fields["label"] for row in rows]
        labels = self.labels or distinct_labels(names)
        if len(labels) < 2:
            raise DataError(
                f"{self.type} needs at least two labels; the training rows only have '{labels[0]}'"
            )
        weights = None
        if self.class_weights == "balanced":
            counts = count_labels(names, labels)
            weights = tuple(len(rows) / (len(labels) * max(1, counts[label])) for label in labels)
        return replace(self, labels=labels, pooling=self.pooling or pooling, weights=weights)

    def stratum(self, row: Row) -> Hashable:
        return str(row.fields["label"])

    def warnings(self, rows: Sequence[Row], targets: Sequence[Any]) -> list[str]:
        names = [row.fields["label"] for row in rows]
        counts = count_labels(names, self.labels or distinct_labels(names))
        once = sorted(label for label, count in counts.items() if count == 1)
        found = super().warnings(rows, targets)
        if once:
            some = ", ".join(f"'{label}'" for label in once[:5]) + (", ..." * (len(once) > 5))
            found.append(
                f"{len(once)} labels have a single training row and will hardly be learned: {some}"
            )
        return found

    def target(self, row: Row, example: Example) -> int:
        return label_index(row.fields["label"], known_labels(self.labels), row.where)

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy of the mean logits over a text's windows, `[n]`."""
        logits = outputs.means().float()
        labels = torch.tensor(targets, device=logits.device)
        weight = None if self.weights is None else logits.new_tensor(self.weights)
        return F.cross_entropy(
            logits, labels, weight, reduction="none", label_smoothing=self.label_smoothing
        )

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"label", "score", "scores"}`: the best label and every label's probability."""
        found = []
        for probabilities in outputs.means().float().softmax(-1).tolist():
            best = ranked(known_labels(self.labels), probabilities)
            found.append({"label": best[0][0], "score": best[0][1], "scores": dict(best)})
        return found

    def summary(self, answer: Answer) -> AnswerSummary:
        return AnswerSummary(answer["label"], answer["score"])

    def decision(self, answer: Answer) -> Decision:
        return Decision((answer["label"],), answer["score"])

    def scores(self, outputs: Outputs, example: Example) -> list[Score]:
        """The logit of the answered label."""
        best = int(outputs.means()[0].argmax())
        return [mean_score(known_labels(self.labels)[best], outputs.logits, best)]

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """Index of each row's label."""
        logits = outputs.means()
        probabilities = logits.double().softmax(-1).numpy()
        return Predictions(logits.argmax(-1).numpy(), np.array(targets), probabilities)

    def report(self, predictions: Predictions) -> dict[str, Any]:
        names, predicted = known_labels(self.labels), predictions.predicted
        return {
            "per_class": per_class(names, range(len(names)), predicted, predictions.references),
            "confusion": confusion(predictions),
        }
