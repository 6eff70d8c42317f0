"""Single-label classification of a text or a text pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from .foreign_head import ForeignHead
from .single_label import SingleLabelTask


@dataclass(frozen=True)
class Classification(SingleLabelTask):
    """One of C labels for each text or text pair."""

    type: ClassVar[str] = "classification"
    is_default: ClassVar[bool] = True
    foreign: ClassVar[bool] = True

    problem_type: ClassVar[str | None] = "single_label_classification"

    @classmethod
    def from_head(cls, head: ForeignHead) -> Self:
        return cls(
            pooling=head.pooling,
            hidden_activation=head.hidden_activation,
            hidden_norm_eps=head.hidden_norm_eps,
            labels=head.label_names,
        )
