"""Base classes of tasks with one answer for a whole text: pooling, long texts, a linear head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.encoded_text import EncodedText
from ..backbone.packing import Pooling
from ..backbone.sequence_head import Activation, SequenceHead
from ..backbone.tokenizer import LongText, TextEncoder, truncate
from ..metrics.base import check_metrics
from ..ops.grouped_linear import grouped_linear
from ..ops.low_rank_gpu import in_one_launch
from ..schema import check_least, check_share
from .base import LEAST_TOKENS, Task
from .columns import Column
from .fields import FieldKind, Fields
from .types import Example, HeadInput, Part, Row, Score

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "relu": F.relu,
}


@dataclass(frozen=True)
class PooledText(Task):
    """A task on one pooled vector of a text or a text pair.

    Attributes:
        pooling: cls (first token), pooler (the backbone's own) or mean (all tokens).
            If omitted: that of the backbone.
        dropout: Share of the pooled vector that is dropped in training.
        max_length: Most tokens of a text. If omitted: as many as the backbone takes.
        long_text: Which part of a longer text is read: its head, its tail, head+tail (half of
            each), or windows (all of it; the answer is the mean of the windows).
        stride: Tokens that neighbouring windows share, at most half of a window.
        extra_metrics: Further metrics, such as [matthews, roc_auc].
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(FieldKind.TEXT, "the text"),
        "text_pair": Column(
            FieldKind.TEXT,
            "a second text, for tasks on text pairs",
            required=False,
            as_in_training=True,
        ),
    }
    augmentable: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    pooling: Pooling | None = None
    dropout: float = 0.1
    max_length: int | None = None
    long_text: LongText = "head"
    stride: int = 32
    extra_metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_share(self, "dropout")
        check_least(self, 0, "stride")
        check_metrics((self.metric_kind,), self.extra_metrics)
        check_least(self, LEAST_TOKENS, "max_length")

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        return replace(self, pooling=self.pooling or pooling)

    def parts(self, row: Fields) -> list[tuple[Part, ...]]:
        """The text or the text pair that is read, as the only item of a list."""
        pair = row.get("text_pair")
        text = Part("text", row["text"])
        return [(text,) if pair is None else (text, Part("text_pair", pair))]

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        texts = [[part.text for part in self.parts(row)[0]] for row in rows]
        seconds = [pair[1] if len(pair) == 2 else None for pair in texts]
        encodings = reader.encode([pair[0] for pair in texts], seconds)
        return [
            self.example(row, encoding, limit)
            for row, encoding in zip(rows, encodings, strict=True)
        ]

    def example(self, row: Fields, encoding: EncodedText, limit: int) -> Example:
        """Returns a row as an example.

        Args:
            row: Values by role.
            encoding: Its tokenised text or text pair.
            limit: Most tokens of a sequence.
        """
        return Example(tuple(truncate(encoding, limit, self.long_text, self.stride)))

    def pooled(self, inputs: HeadInput) -> Tensor:
        """The pooled vectors of an adapter's sequences, `[n, h]` float32."""
        pooled = inputs.encoded.pooled(fitted_pooling(self))[slice(*inputs.span)].float()
        dropout = inputs.dropout
        return pooled if dropout is None else dropout.drop_rows(pooled, self.dropout)


@dataclass(frozen=True)
class PooledTask(PooledText):
    """A task with a linear head on the pooled vector, or one with a hidden layer before it.

    Attributes:
        hidden_activation: Adds to the head a hidden layer, as wide as the backbone's states, with
            this activation: tanh (as RoBERTa has), gelu (ELECTRA) or relu (DistilBERT). If omitted:
            the head is a single linear layer.
        hidden_norm_eps: Adds a layer norm with this epsilon after the hidden layer, as ModernBERT
            has. If omitted: there is none.
    """

    hidden_activation: Activation | None = None
    hidden_norm_eps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_norm_eps is None:
            return
        if self.hidden_activation is None or not 0 < self.hidden_norm_eps < 1:
            raise ValueError(
                "hidden_norm_eps: expected a number between 0 and 1, beside a hidden_activation; "
                f"got {self.hidden_norm_eps}"
            )

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Number of logits of a text, C."""

    def same_answers(self, other: Task) -> bool:
        names = ("labels", "pooling", "hidden_activation", "hidden_norm_eps")
        return type(other) is type(self) and all(
            getattr(self, name, None) == getattr(other, name, None) for name in names
        )

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        fitted_pooling(self)  # raises ValueError for a card in which it is open
        shapes: dict[str, tuple[int, ...]] = {
            "classifier.weight": (self.n_outputs, hidden),
            "classifier.bias": (self.n_outputs,),
        }
        if self.hidden_activation is not None:
            shapes |= {"dense.weight": (hidden, hidden), "dense.bias": (hidden,)}
        if self.hidden_norm_eps is not None:
            shapes |= {"norm.weight": (hidden,), "norm.bias": (hidden,)}
        return shapes

    def fresh_head(self, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
        """As in `Task`, with the norm as the identity."""
        head = super().fresh_head(hidden, generator)
        return {k: torch.ones_like(v) if k == "norm.weight" else v for k, v in head.items()}

    def transformers_head(self, head: SequenceHead | None) -> Mapping[str, str] | None:
        if head is None or self.hidden_norm_eps is not None:
            return None  # a trained norm has a bias here, and none there
        if head.norm is not None:
            is_frozen = self.pooling == "pooler" and self.hidden_activation is None
            return {"classifier": head.linear} if is_frozen else None
        if self.pooling != head.pooling:
            return None
        if head.dense is None:
            return {"classifier": head.linear} if self.hidden_activation is None else None
        if self.hidden_activation != head.activation:
            return None
        return {"classifier": head.linear, "dense": head.dense}

    def logits(self, inputs: HeadInput) -> Tensor:
        """`[n, C]`."""
        weight, bias = inputs.head["classifier.weight"], inputs.head["classifier.bias"]
        states = self.pooled(inputs)
        if self.hidden_activation is not None:
            hidden = F.linear(states, inputs.head["dense.weight"], inputs.head["dense.bias"])
            states = ACTIVATIONS[self.hidden_activation](hidden)
            if self.hidden_norm_eps is not None:
                norm = inputs.head["norm.weight"], inputs.head["norm.bias"]
                states = F.layer_norm(states, states.shape[-1:], *norm, self.hidden_norm_eps)
            if inputs.dropout is not None:
                states = inputs.dropout.drop_rows(states, self.dropout)
        return F.linear(states, weight, bias)

    @classmethod
    def logits_of(cls, members: Sequence[tuple[Self, HeadInput]]) -> list[Tensor]:
        """As in `Task`; on a GPU outside training the heads of one pooling run in one launch."""
        encoded = members[0][1].encoded
        own = cls.logits is not PooledTask.logits or any(t.hidden_activation for t, _ in members)
        if own or not in_one_launch(encoded.tokens.device):
            return super().logits_of(members)
        found: dict[int, Tensor] = {}
        for pooling in {fitted_pooling(task) for task, _ in members}:
            alike = [n for n, (task, _) in enumerate(members) if task.pooling == pooling]
            inputs = [members[n][1] for n in alike]
            logits = grouped_linear(
                encoded.pooled(pooling).float(),
                [one.span for one in inputs],
                [one.head["classifier.weight"] for one in inputs],
                [one.head["classifier.bias"] for one in inputs],
            )
            found |= zip(alike, logits, strict=True)
        return [found[n] for n in range(len(members))]


def mean_score(name: str, logits: Tensor, column: int = 0) -> Score:
    """The mean of one logit over the windows of a text.

    Args:
        name: What it stands for, such as a label.
        logits: Those of the row, `[windows, C]`.
        column: The logit.
    """
    weights = torch.zeros_like(logits)
    weights[:, column] = 1.0 / len(logits)
    return Score(name, weights)


def fitted_pooling(task: PooledText) -> Pooling:
    """The pooling of a fitted task."""
    if task.pooling is None:
        raise ValueError("the task was not fitted: pooling is open")
    return task.pooling


def ranked(labels: Sequence[str], scores: Sequence[float]) -> list[tuple[str, Any]]:
    """Labels with their scores, the best first."""
    return sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])
