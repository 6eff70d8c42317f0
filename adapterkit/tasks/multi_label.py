"""Multi-label classification: any number of labels for a text, none included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Pooling
from ..errors import DataError, did_you_mean
from ..pooled import PooledTask, check_labels, known_labels, ranked
from ..task import Answer, Example, Outputs, Row


@dataclass(frozen=True)
class MultiLabel(PooledTask):
    """Each of C labels is true or not, on its own.

    Attributes:
        labels: Label names in order; the sorted labels of the training rows where left out.
        threshold: Probability from which a label is given.
    """

    type: ClassVar[str] = "multi_label"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    learns: ClassVar[Mapping[str, str]] = {"labels": "labels"}
    main_metric: ClassVar[str] = "f1_micro"

    labels: tuple[str, ...] | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels, least=1)
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold: expected between 0 and 1, got {self.threshold}")

    @property
    def n_outputs(self) -> int:
        return len(known_labels(self.labels))

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        labels = self.labels or tuple(sorted({x for row in rows for x in row.fields["labels"]}))
        if not labels:
            raise DataError("multi_label needs at least one label; no training row has any")
        return replace(self, labels=labels, pooling=self.pooling or pooling)

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
        found = []
        for line in outputs.means().float().sigmoid().tolist():
            best = ranked(known_labels(self.labels), line)
            given = [label for label, score in best if score >= self.threshold]
            found.append({"labels": given, "scores": dict(best)})
        return found

    def metrics(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> dict[str, float]:
        """F1 over all decisions and averaged over labels, and the share of wholly right rows."""
        from sklearn.metrics import accuracy_score, f1_score

        given = (outputs.means().sigmoid() >= self.threshold).int().numpy()
        goal = torch.tensor(targets).int().numpy()
        return {
            "f1_micro": float(f1_score(goal, given, average="micro", zero_division=0)),
            "f1_macro": float(f1_score(goal, given, average="macro", zero_division=0)),
            "exact": float(accuracy_score(goal, given)),
        }
