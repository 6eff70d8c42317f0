"""How transformers' sequence classifiers of a family turn the states of a text into logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .packing import Pooling

Activation = Literal["tanh", "gelu", "relu"]
"""Activation of a head's hidden layer."""


@dataclass(frozen=True)
class SequenceHead:
    """The head of a family's sequence classifiers in transformers, without its dropout.

    Attributes:
        linear: Path of the linear layer that returns the logits, inside the task model.
        dense: Path of the hidden layer before it, if there is one.
        activation: Activation after the hidden layer; tanh for that of a pooler.
        pooling: The vector that the first of these layers reads.
        pooler: Path of the pooler's linear layer inside the backbone, if the pooling is `pooler`.
        norm: Path of the layer norm after the activation, if there is one. The frozen layers of the
            checkpoint up to it are then the pooling `pooler`.
        norm_eps: Epsilon of that norm.
        has_dense_bias, has_norm_bias: Whether these layers have biases.
        linear_models: PEFT's types of the other task models of the family, as far as their head is
            one linear layer on the states.
    """

    linear: str = "classifier"
    dense: str | None = None
    activation: Activation = "tanh"
    pooling: Pooling = "cls"
    pooler: str | None = None
    norm: str | None = None
    norm_eps: float = 1e-5
    has_dense_bias: bool = True
    has_norm_bias: bool = True
    linear_models: tuple[str, ...] = ("TOKEN_CLS", "QUESTION_ANS")
