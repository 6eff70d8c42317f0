"""Text embedding: a vector for each text, near to those of the texts that belong to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.packing import Pooling
from ..backbone.tokenizer import TextEncoder, truncate
from ..errors import DataError
from ..metrics.base import Predictions
from ..schema import check_least
from .base import Task
from .columns import Column
from .fields import TEXT, Fields
from .pooled import PooledText
from .types import Answer, AnswerSummary, Example, HeadInput, Outputs, Row, vector_summary

ROLES = ("text", "text_pair", "negative")
BLOCK = 1024
"""Rows that are compared with all candidates at a time, so that large splits stay small."""


@dataclass(frozen=True)
class Texts:
    """The texts of one row, in the order of `ROLES`.

    Attributes:
        texts: One to be given a vector, two to be compared, three with a hard negative.
        sizes: Sequences of each; several where a long text is read in windows.
    """

    texts: tuple[str, ...]
    sizes: tuple[int, ...]


class Rights:
    """What may not be held against a row: its own text, and all that rows of the same text have
    for an answer.

    Args:
        asks, answers: Texts of each row.
        candidates: Texts of each candidate.
    """

    def __init__(
        self, asks: Sequence[str], answers: Sequence[str], candidates: Sequence[str]
    ) -> None:
        self._asks = asks
        self._right: dict[str, set[str]] = defaultdict(set)
        for ask, answer in zip(asks, answers, strict=True):
            self._right[ask] |= {ask, answer}
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, text in enumerate(candidates):
            self._places[text].append(place)

    def of(self, row: int) -> list[int]:
        """Places of the candidates that are right for a row."""
        return [place for text in self._right[self._asks[row]] for place in self._places[text]]


@dataclass(frozen=True)
class Embedding(PooledText):
    """A vector of length 1 for each text; the cosine of two says how well they go together.

    Learnt from pairs: a row's text must find its own text_pair among those of its whole batch
    (Henderson et al. 2017; InfoNCE, van den Oord et al. 2018). Where rows share a text or a
    text_pair, neither is held against the other. Larger batches teach more.

    Attributes:
        dropout: Share of the pooled vector dropped in training.
        dimensions: Numbers in a vector, by a learnt projection; as many as the backbone's hidden
            state, without projection, where left out.
        temperature: What cosines are divided by before they compete.
        symmetric: Let each text_pair find its text too.
    """

    type: ClassVar[str] = "embedding"
    peft_task_type: ClassVar[str | None] = "FEATURE_EXTRACTION"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(TEXT, "the text"),
        "text_pair": Column(TEXT, "a text that belongs to text", learned=True, also_input=True),
        "negative": Column(
            TEXT, "a wrong text_pair that looks right", required=False, learned=True
        ),
    }
    whole_batch: ClassVar[bool] = True
    augmentable: ClassVar[tuple[str, ...]] = ROLES
    metric_kind: ClassVar[str] = "ranks"
    # Of a small split recall@1 moves in large steps; the reciprocal rank sees every row get better.
    main_metric: ClassVar[str] = "mrr"
    tensor_keys: ClassVar[tuple[str, ...]] = ("score", "vector")

    dropout: float = 0.0
    dimensions: int | None = None
    temperature: float = 0.05
    symmetric: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "dimensions")
        if not self.temperature > 0.0:
            raise ValueError(f"temperature: expected more than 0, got {self.temperature}")

    def fit(self, rows: Sequence[Row], pooling: Pooling) -> Self:
        if len({row.fields["text_pair"] for row in rows}) < 2:
            raise DataError("embedding needs at least two different text_pair in its training rows")
        return replace(self, pooling=self.pooling or pooling)

    @property
    def ensemble_error(self) -> str | None:
        """Without a projection all vectors are the frozen backbone's states, moved a little; each
        fresh projection begins a space of its own."""
        if self.dimensions is None:
            return None
        return (
            f"task.dimensions: every member would learn a projection to {self.dimensions} numbers "
            "of its own, and vectors of different spaces have no mean; leave dimensions out, or "
            "train a single adapter"
        )

    def same_answers(self, other: Task) -> bool:
        mine = (self.pooling, self.dimensions)
        return isinstance(other, Embedding) and mine == (other.pooling, other.dimensions)

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        return {} if self.dimensions is None else {"projection.weight": (self.dimensions, hidden)}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        texts = [tuple(row[role] for role in ROLES if role in row) for row in rows]
        read = iter(reader.encode(list(chain(*texts))))
        found = []
        for row in texts:
            parts = [truncate(next(read), limit, self.long_text, self.stride) for _ in row]
            found.append(Example(tuple(chain(*parts)), Texts(row, tuple(map(len, parts)))))
        return found

    def target(self, row: Row, example: Example) -> Texts:
        """Which sequences are whose: the row is its own answer."""
        texts: Texts = example.notes
        return texts

    def logits(self, inputs: HeadInput) -> Tensor:
        """`[n, dimensions]`, of any length."""
        pooled, head = self.pooled(inputs), inputs.head
        return F.linear(pooled, head["projection.weight"]) if head else pooled

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy of each row's own text_pair among those of all rows, and all hard
        negatives, `[n]`."""
        vectors, (text, pair, *hard) = _by_role(outputs, targets)
        answering = torch.cat(vectors[1:])
        losses = self._found(vectors[0], answering, Rights(text, pair, [*pair, *chain(*hard)]))
        if self.symmetric:
            losses = (losses + self._found(vectors[1], vectors[0], Rights(pair, text, text))) / 2
        return losses

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"vector"}` of a text, of length 1; `{"score"}` of two, their cosine."""
        rows = _vectors(outputs, [example.notes for example in examples])
        return [
            {"vector": row[0].tolist()} if len(row) == 1 else {"score": float(row[0] @ row[1])}
            for row in rows
        ]

    def summary(self, answer: Answer) -> AnswerSummary:
        if "vector" in answer:
            return vector_summary(answer["vector"])
        return AnswerSummary(f"{answer['score']:.3f}")

    def predictions(
        self, outputs: Outputs, examples: Sequence[Example], targets: Sequence[Any]
    ) -> Predictions:
        """The place of each row's own text_pair among all different text_pair of these rows, and
        how many these are.

        Other right answers of the same text are left out of a row's ranking; of equal scores the
        right one comes last, so that vectors which are all the same find nothing.
        """
        vectors, (text, pair, *_) = _by_role(outputs, targets)
        first = {answer: row for row, answer in reversed(list(enumerate(pair)))}
        column = {answer: place for place, answer in enumerate(first)}
        rights = Rights(text, pair, list(first))
        own = [column[answer] for answer in pair]
        ranks = torch.cat(
            [
                (scores >= scores.gather(1, place[:, None])).sum(1)
                for place, scores in _blocks(
                    vectors[0], vectors[1][list(first.values())], rights, own
                )
            ]
        )
        return Predictions(ranks.numpy(), np.full(len(ranks), len(first)))

    def _found(self, asking: Tensor, answering: Tensor, rights: Rights) -> Tensor:
        """Cross-entropy of candidate i for row i, `[n]`."""
        blocks = _blocks(asking, answering, rights, range(len(asking)))
        return torch.cat(
            [
                F.cross_entropy(scores / self.temperature, own, reduction="none")
                for own, scores in blocks
            ]
        )


def _blocks(
    asking: Tensor, answering: Tensor, rights: Rights, own: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosines of some rows at a time with all candidates, minus infinity where a candidate is right
    too.

    Args:
        asking, answering: Vectors of rows `[n, d]` and candidates `[c, d]`, of length 1.
        rights: Whose texts they are.
        own: The candidate that each row is to find.

    Yields:
        Those rows' own candidates `[b]`, and their cosines `[b, c]`.
    """
    for start in range(0, len(asking), BLOCK):
        some = range(start, min(start + BLOCK, len(asking)))
        scores = asking[some.start : some.stop] @ answering.T
        excused = [
            (row - start, place) for row in some for place in rights.of(row) if place != own[row]
        ]
        if excused:
            mask = torch.zeros(scores.shape, dtype=torch.bool)
            mask[tuple(torch.tensor(excused).T)] = True
            scores = scores.masked_fill(mask.to(scores.device), -torch.inf)
        yield torch.tensor(own[some.start : some.stop], device=scores.device), scores


def _by_role(
    outputs: Outputs, targets: Sequence[Texts]
) -> tuple[list[Tensor], list[tuple[str, ...]]]:
    """Vectors `[n, d]` and texts of each role that the rows have."""
    rows = _vectors(outputs, targets)
    texts = list(zip(*(target.texts for target in targets), strict=True))
    return [torch.stack(part) for part in zip(*rows, strict=True)], texts


def _vectors(outputs: Outputs, rows: Sequence[Texts]) -> list[tuple[Tensor, ...]]:
    """Each row's texts as vectors `[d]` of length 1; windows of one text by their mean."""
    sizes = [size for row in rows for size in row.sizes]
    parts = torch.stack([part.mean(0) for part in outputs.lines.float().split(sizes)])
    vectors = iter(F.normalize(parts, dim=-1))
    return [tuple(next(vectors) for _ in row.sizes) for row in rows]
