"""The head of an adapter that another program trained, as a task reads it."""

from __future__ import annotations

from dataclasses import dataclass

from ..backbone.packing import Pooling
from ..backbone.sequence_head import Activation


@dataclass(frozen=True)
class ForeignHead:
    """The head of an adapter that another program trained.

    Attributes:
        n_outputs: Number of logits; 0 for an adapter without a head.
        labels: Names of the labels, if they are known.
        pooling: The vector that a head of whole sequences reads.
        hidden_activation: The activation of its hidden layer; None without such a layer.
        hidden_norm_eps: Epsilon of the layer norm after that layer; None without such a norm.
        pair_token_types: Whether it was trained with a token type of its own for the second text.
    """

    n_outputs: int
    labels: tuple[str, ...] | None = None
    pooling: Pooling = "cls"
    hidden_activation: Activation | None = None
    hidden_norm_eps: float | None = None
    pair_token_types: bool = True

    @property
    def likely_problem_type(self) -> str:
        """The `problem_type` that transformers takes for a sequence classifier without one."""
        return "regression" if self.n_outputs == 1 else "single_label_classification"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels; those of transformers if they are not known.

        Raises:
            ValueError: There are more or fewer names than logits.
        """
        names = self.labels or tuple(f"LABEL_{index}" for index in range(self.n_outputs))
        if len(names) != self.n_outputs:
            raise ValueError(f"labels: {len(names)} names for a head of {self.n_outputs} labels")
        return names
