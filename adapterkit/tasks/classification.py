"""Single-label classification of a text or a text pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Encoded, Pooling
from ..errors import DataError, did_you_mean
from ..ops import Noise
from ..task import Answer, Row, Task, Tensors


@dataclass(frozen=True)
class Classification(Task):
    """One of C labels for each text: a linear head on one pooled vector.

    Attributes:
        pooling: cls (first token), pooler (BERT's own dense and tanh on it) or mean (all tokens);
            what suits the backbone where left out.
        dropout: Share of the pooled vector dropped in training.
        max_length: Most tokens of a text; as many as the backbone takes where left out.
        labels: Label names in order; the sorted labels of the training rows where left out.
    """

    type: ClassVar[str] = "classification"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    main_metric: ClassVar[str] = "accuracy"

    pooling: Pooling | None = None
    dropout: float = 0.1
    max_length: int | None = None
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: expected 0 or more and less than 1, got {self.dropout}")
        if self.labels is not None and len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(
                f"labels: expected at least two distinct names, got {list(self.labels)}"
            )

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        labels = self.labels or tuple(sorted({row.fields["label"] for row in rows}))
        if len(labels) < 2:
            raise DataError(
                "classification needs at least two labels; "
                f"the training rows only have '{labels[0]}'"
            )
        return replace(self, labels=labels, pooling=self.pooling or pooling)

    def warnings(self, rows: Sequence[Row]) -> list[str]:
        counts = Counter(row.fields["label"] for row in rows)
        once = sorted(label for label, count in counts.items() if count == 1)
        if not once:
            return []
        names = ", ".join(f"'{label}'" for label in once[:5]) + (", ..." if len(once) > 5 else "")
        return [f"{len(once)} labels have a single training row and will hardly be learnt: {names}"]

    def same_answers(self, other: Task) -> bool:
        return isinstance(other, Classification) and (self.labels, self.pooling) == (
            other.labels,
            other.pooling,
        )

    @classmethod
    def from_head(cls, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """Label names are transformers' `LABEL_0`, ..., pooling is BERT's pooler, as there."""
        weight = shapes.get("classifier.weight")
        if weight is None:
            raise ValueError("there is no classifier in the weights")
        return cls(pooling="pooler", labels=tuple(f"LABEL_{i}" for i in range(weight[0])))

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        return {
            "classifier.weight": (len(self._labels), hidden),
            "classifier.bias": (len(self._labels),),
        }

    def fresh_head(self, hidden: int, generator: torch.Generator) -> Tensors:
        """BERT's own initialisation: normal with standard deviation 0.02, bias zero."""
        head = {name: torch.zeros(shape) for name, shape in self.head_shapes(hidden).items()}
        head["classifier.weight"].normal_(std=0.02, generator=generator)
        return head

    def target(self, row: Row) -> int:
        label = row.fields["label"]
        if label not in self._labels:
            raise DataError(
                f"{row.where}: label '{label}' is not one this task was trained on; "
                f"{did_you_mean(label, self._labels)}"
            )
        return self._labels.index(label)

    def logits(
        self, head: Tensors, encoded: Encoded, span: tuple[int, int], noise: Noise | None
    ) -> Tensor:
        """`[n, C]`."""
        if self.pooling is None:
            raise ValueError("the task was not fitted: pooling is open")
        pooled = encoded.pooled(self.pooling)[span[0] : span[1]].float()
        if noise is not None:
            pooled = noise.drop_rows(pooled, self.dropout, span[0])
        return F.linear(pooled, head["classifier.weight"], head["classifier.bias"])

    def loss(self, logits: Tensor, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy, `[n]`."""
        goal = torch.tensor(targets, device=logits.device)
        return F.cross_entropy(logits.float(), goal, reduction="none")

    def answers(self, logits: Tensor) -> list[Answer]:
        """`{"label", "score", "scores"}`: the best label and every label's probability."""
        found = []
        for line in logits.softmax(-1).tolist():
            ranked = sorted(zip(self._labels, line, strict=True), key=lambda pair: -pair[1])
            found.append({"label": ranked[0][0], "score": ranked[0][1], "scores": dict(ranked)})
        return found

    def metrics(self, logits: Tensor, targets: Sequence[Any]) -> dict[str, float]:
        """Accuracy, and F1 averaged over the labels that occur."""
        from sklearn.metrics import accuracy_score, f1_score

        predicted = logits.argmax(-1).tolist()
        return {
            "accuracy": float(accuracy_score(targets, predicted)),
            "f1_macro": float(f1_score(targets, predicted, average="macro", zero_division=0)),
        }

    @property
    def _labels(self) -> tuple[str, ...]:
        if self.labels is None:
            raise ValueError("the task was not fitted: labels are open")
        return self.labels
