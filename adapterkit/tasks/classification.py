"""Single-label classification of a text or a text pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from .single_label import SingleLabelTask


@dataclass(frozen=True)
class Classification(SingleLabelTask):
    """One of C labels for each text or text pair."""

    type: ClassVar[str] = "classification"
    is_default: ClassVar[bool] = True
    foreign: ClassVar[bool] = True

    @classmethod
    def from_head(cls, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """Label names are transformers' `LABEL_0`, ..., pooling is BERT's pooler, as there."""
        weight = shapes.get("classifier.weight")
        if weight is None:
            raise ValueError("there is no classifier in the weights")
        return cls(pooling="pooler", labels=tuple(f"LABEL_{i}" for i in range(weight[0])))
