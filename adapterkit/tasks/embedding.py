"""Text embedding: a vector for each text, close to those of the texts that belong to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from .fields import FieldKind, Fields
from .foreign_head import ForeignHead
from .pooled import PooledText, fitted_pooling
from .types import Answer, AnswerSummary, Example, HeadInput, Outputs, Row, vector_summary

ROLES = ("text", "text_pair", "negative")
BLOCK = 1024
"""Number of rows that are compared with all candidates at a time; it bounds the memory."""


@dataclass(frozen=True)
class Texts:
    """The texts of one row, in the order of `ROLES`.

    Attributes:
        texts: One to embed, two to compare, three with a hard negative.
        sizes: Number of sequences of each; several if a long text is read in windows.
    """

    texts: tuple[str, ...]
    sizes: tuple[int, ...]


class Positives:
    """The candidates that are no negatives of a row: its own text, and the answers of all rows that
    have the same text.

    Args:
        texts: Text of each row.
        answers: Text that belongs to it.
        candidates: Text of each candidate.
    """

    def __init__(
        self, texts: Sequence[str], answers: Sequence[str], candidates: Sequence[str]
    ) -> None:
        self._texts = texts
        self._positives: dict[str, set[str]] = defaultdict(set)
        for text, answer in zip(texts, answers, strict=True):
            self._positives[text] |= {text, answer}
        self._indices: dict[str, list[int]] = defaultdict(list)
        for index, text in enumerate(candidates):
            self._indices[text].append(index)

    def of(self, row: int) -> list[int]:
        """Indices of the candidates that are positives of a row."""
        positives = self._positives[self._texts[row]]
        return [index for text in positives for index in self._indices[text]]


@dataclass(frozen=True)
class Embedding(PooledText):
    """A vector of length 1 for each text; the cosine of two is the similarity of their texts.

    It is trained on pairs with in-batch negatives: the text of a row must find its own text_pair
    among those of its batch (Henderson et al. 2017; InfoNCE, van den Oord et al. 2018). Rows that
    share a text or a text_pair are no negatives of each other. Larger batches train better.

    Attributes:
        dropout: Share of the pooled vector that is dropped in training.
        dimensions: Length of a vector, by a trained projection. If omitted: the hidden size of the
            backbone, without a projection.
        temperature: Divisor of the cosines before the softmax.
        symmetric: Let each text_pair find its text as well.
    """

    type: ClassVar[str] = "embedding"
    pipeline_tag: ClassVar[str | None] = "sentence-similarity"
    peft_task_type: ClassVar[str | None] = "FEATURE_EXTRACTION"
    foreign: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(FieldKind.TEXT, "the text"),
        "text_pair": Column(
            FieldKind.TEXT, "a text that belongs to text", learned=True, also_input=True
        ),
        "negative": Column(
            FieldKind.TEXT, "a wrong text_pair that looks right", required=False, learned=True
        ),
    }
    whole_batch: ClassVar[bool] = True
    augmentable: ClassVar[tuple[str, ...]] = ROLES
    metric_kind: ClassVar[str] = "ranks"
    # On a small split recall@1 changes in large steps; the reciprocal rank changes with every row.
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
        return super().fit(rows, pooling)

    @classmethod
    def from_head(cls, head: ForeignHead) -> Self:
        return cls(pooling=head.pooling)

    @property
    def ensemble_error(self) -> str | None:
        """Without a projection all members' vectors are near those of the frozen backbone and can
        be averaged; each fresh projection has a space of its own."""
        if self.dimensions is None:
            return None
        return (
            f"task.dimensions: every member would learn its own projection to {self.dimensions} "
            "numbers, and vectors of different spaces cannot be averaged; leave dimensions out, or "
            "train a single adapter"
        )

    def same_answers(self, other: Task) -> bool:
        mine = (self.pooling, self.dimensions)
        return isinstance(other, Embedding) and mine == (other.pooling, other.dimensions)

    def head_shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        fitted_pooling(self)  # raises ValueError for a card in which it is open
        return {} if self.dimensions is None else {"projection.weight": (self.dimensions, hidden)}

    def examples(self, rows: Sequence[Fields], reader: TextEncoder, limit: int) -> list[Example]:
        texts = [tuple(row[role] for role in ROLES if role in row) for row in rows]
        encodings = iter(reader.encode(list(chain(*texts))))
        found = []
        for row in texts:
            parts = [truncate(next(encodings), limit, self.long_text, self.stride) for _ in row]
            found.append(Example(tuple(chain(*parts)), Texts(row, tuple(map(len, parts)))))
        return found

    def target(self, row: Row, example: Example) -> Texts:
        """The texts of the row, which tell which of its sequences belong to which text."""
        texts: Texts = example.notes
        return texts

    def logits(self, inputs: HeadInput) -> Tensor:
        """Vectors `[n, dimensions]`, not normalised."""
        pooled, head = self.pooled(inputs), inputs.head
        return F.linear(pooled, head["projection.weight"]) if head else pooled

    def loss(self, outputs: Outputs, targets: Sequence[Any]) -> Tensor:
        """Cross-entropy of each row's own text_pair among those of all rows, and all hard
        negatives, `[n]`."""
        vectors, (text, pair, *hard) = _by_role(outputs, targets)
        candidates, positives = (
            torch.cat(vectors[1:]),
            Positives(text, pair, [*pair, *chain(*hard)]),
        )
        losses = self._info_nce(vectors[0], candidates, positives)
        if self.symmetric:
            positives = Positives(pair, text, text)
            losses = (losses + self._info_nce(vectors[1], vectors[0], positives)) / 2
        return losses

    def answers(self, outputs: Outputs, examples: Sequence[Example]) -> list[Answer]:
        """`{"vector"}`, of length 1, for one text; `{"score"}`, their cosine, for two."""
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
        """Rank of each row's own text_pair among the distinct text_pair of these rows, and the
        number of those.

        Other positives of the same text are left out of a row's ranking. Of equal scores the right
        one is ranked last, so that equal vectors for all texts do not rank well.
        """
        vectors, (text, pair, *_) = _by_role(outputs, targets)
        first = {answer: row for row, answer in reversed(list(enumerate(pair)))}
        column = {answer: index for index, answer in enumerate(first)}
        positives = Positives(text, pair, list(first))
        own = [column[answer] for answer in pair]
        blocks = _blocks(vectors[0], vectors[1][list(first.values())], positives, own)
        ranks = torch.cat(
            [(scores >= scores.gather(1, index[:, None])).sum(1) for index, scores in blocks]
        )
        return Predictions(ranks.numpy(), np.full(len(ranks), len(first)))

    def _info_nce(self, queries: Tensor, candidates: Tensor, positives: Positives) -> Tensor:
        """Cross-entropy of candidate i for query i, `[n]`."""
        blocks = _blocks(queries, candidates, positives, range(len(queries)))
        return torch.cat(
            [
                F.cross_entropy(scores / self.temperature, own, reduction="none")
                for own, scores in blocks
            ]
        )


def _blocks(
    queries: Tensor, candidates: Tensor, positives: Positives, own: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosines of a block of rows with all candidates; minus infinity for a row's other positives.

    Args:
        queries: Vectors of the rows, `[n, d]`, of length 1.
        candidates: Vectors of the candidates, `[c, d]`, of length 1.
        positives: The positives of each row.
        own: Index of the candidate that each row must find.

    Yields:
        Indices of the rows' own candidates `[b]`, and cosines `[b, c]`.
    """
    for start in range(0, len(queries), BLOCK):
        block = range(start, min(start + BLOCK, len(queries)))
        scores = queries[block.start : block.stop] @ candidates.T
        others = [
            (row - start, index)
            for row in block
            for index in positives.of(row)
            if index != own[row]
        ]
        if others:
            mask = torch.zeros(scores.shape, dtype=torch.bool)
            mask[tuple(torch.tensor(others).T)] = True
            scores = scores.masked_fill(mask.to(scores.device), -torch.inf)
        yield torch.tensor(own[block.start : block.stop], device=scores.device), scores


def _by_role(
    outputs: Outputs, targets: Sequence[Texts]
) -> tuple[list[Tensor], list[tuple[str, ...]]]:
    """For each role that the rows have: vectors `[n, d]` and texts."""
    rows = _vectors(outputs, targets)
    texts = list(zip(*(target.texts for target in targets), strict=True))
    return [torch.stack(part) for part in zip(*rows, strict=True)], texts


def _vectors(outputs: Outputs, rows: Sequence[Texts]) -> list[tuple[Tensor, ...]]:
    """Vectors `[d]`, of length 1, of the texts of each row; the mean over the windows of a text."""
    sizes = [size for row in rows for size in row.sizes]
    parts = torch.stack([part.mean(0) for part in outputs.logits.float().split(sizes)])
    vectors = iter(F.normalize(parts, dim=-1))
    return [tuple(next(vectors) for _ in row.sizes) for row in rows]
