"""Integrated gradients (Sundararajan et al. 2017) by captum, over the word embeddings of a row.

The gradients pass through the adapter and the same forward as predictions. In the baseline every
token of the text is `[MASK]`: pretraining has seen it in place of any word, unlike `[PAD]`, which
is never attended to. Special tokens and marks stay, so the tokens of the text add up to the score
minus the baseline's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from ..tasks.types import Outputs, Score
from .forward import forward
from .token_places import TokenSource

STEPS = (32, 64, 128, 256, 512)
"""Numbers of points on the path from baseline to text; the next is tried until words add up."""

TOLERANCE = 0.005
"""Largest error of the sum, relative to the sum of the absolute attributions of all tokens."""

MAX_TOKENS = 1024
"""Most tokens in one packed batch of points; gradients keep the states of every layer."""


@dataclass(frozen=True)
class TokenAttributions:
    """The attributions of all tokens of a path for its score.

    Attributes:
        values: How much each token raises the score, `[T]`.
        score: The score of the text.
        baseline_score: The score of the baseline.
        error: Difference between the sum of the values and that of the two scores.
        steps: Points on the path that were computed.
    """

    values: list[float]
    score: float
    baseline_score: float
    error: float
    steps: int


class EmbeddingPath:
    """The straight line from the baseline's embeddings to the text's, and one score along it.

    Every point is a row of a packed batch.

    Args:
        backbone: The backbone.
        adapter: The adapter.
        sources: Sequences of the row, T tokens in total.
        score: The score, with the weights of their logits.
    """

    def __init__(
        self, backbone: Backbone, adapter: Adapter, sources: Sequence[TokenSource], score: Score
    ) -> None:
        self.sources = sources
        self.places = [place for source in sources for place in source.places]
        self._backbone, self._adapter = backbone, adapter
        self._weights, self._offset = score.weights.to(backbone.device), score.offset
        ids = [token for source in sources for token in source.inputs.input_ids]
        baseline = baseline_token(backbone)
        masked = [
            token if place is None else baseline
            for token, place in zip(ids, self.places, strict=True)
        ]
        with torch.no_grad():
            self._ends = torch.stack(
                [backbone.word_embeddings(masked), backbone.word_embeddings(ids)]
            )

    @classmethod
    def of_score(
        cls,
        backbone: Backbone,
        adapter: Adapter,
        sources: Sequence[TokenSource],
        outputs: Outputs,
        score: Score,
    ) -> EmbeddingPath:
        """The path of one row, of only those sequences that have a part in the score."""
        weights = score.weights.split(outputs.counts[0])
        used = [number for number, part in enumerate(weights) if bool(part.any())]
        own = replace(score, weights=torch.cat([weights[number] for number in used]))
        return cls(backbone, adapter, [sources[number] for number in used], own)

    def attribute(self, steps: Sequence[int], tolerance: float) -> TokenAttributions:
        """The attributions of the tokens.

        Args:
            steps: Numbers of points on the path to try, one after the other.
            tolerance: Largest error of the sum, relative to the sum of the absolute attributions;
                if it is exceeded, the next number of points is tried.
        """
        with torch.no_grad():
            low, high = self(self._ends).tolist()
        for count in steps:
            values = self._integrated(count)
            error = abs(float(values.sum()) - (high - low))
            if error <= tolerance * float(values.abs().sum()):
                break
        return TokenAttributions(values.tolist(), high, low, error, count)

    def _integrated(self, steps: int) -> Tensor:
        """The attribution of every token, `[T]`."""
        low, high = self._ends
        gradients = import_captum().IntegratedGradients(self)
        found: Tensor = gradients.attribute(
            high[None].requires_grad_(),
            baselines=low[None],
            n_steps=steps,
            internal_batch_size=max(1, MAX_TOKENS // (len(high) * self._adapter.n_members)),
        )
        return found[0].detach().double().sum(-1)

    def __call__(self, points: Tensor) -> Tensor:
        """The score at some points, `[n, T, e] -> [n]`."""
        sizes = [len(source.inputs) for source in self.sources]
        rows = [
            (member, replace(source.inputs, inputs_embeds=words))
            for member in self._adapter.members
            for point in points
            for source, words in zip(self.sources, point.split(sizes), strict=True)
        ]
        outputs = [output.values.float() for output in forward(self._backbone, rows)]
        logits = torch.stack(outputs).mean(0).view(len(points), *self._weights.shape)
        return (logits * self._weights).sum((1, 2)) + self._offset


def baseline_token(backbone: Backbone) -> int:
    """Id of the token that means "no word": the mask token, or the pad token without one."""
    tokenizer = backbone.tokenizer
    mask = tokenizer.mask_token_id
    return int(tokenizer.pad_token_id if mask is None else mask)


def import_captum() -> Any:
    """captum's module of attributions.

    Raises:
        AdapterkitError: It is missing.
    """
    try:
        import captum.attr
    except ImportError:
        raise AdapterkitError(
            "explaining an answer needs captum: pip install 'adapterkit[explain]'"
        ) from None
    return captum.attr
