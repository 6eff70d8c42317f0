"""Packed batches: sequences laid end to end in one row of tokens, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BackboneError
from .lm_head import LMHead

Pooling = Literal["cls", "pooler", "mean"]
"""How a sequence becomes one vector: its first token, the backbone's own pooler (BERT's dense layer
and tanh on the first token), or the mean of all tokens."""


@dataclass(frozen=True)
class TokenSequence:
    """One tokenised text or text pair, special tokens included.

    Attributes:
        input_ids: Token ids.
        token_type_ids: Token type (segment) ids, as many.
        truncated: Whether tokens were cut off to meet a length limit, and no other window of the
            text has them.
        kept: Index of each token in the text before it was truncated; None if it was not.
        inputs_embeds: Word embeddings to use instead of those of `input_ids`, `[n, e]`;
            None outside explanations and adversarial training.
        masked: Index and original token of every masked token; -1 if the original is unknown.
    """

    input_ids: Sequence[int]
    token_type_ids: Sequence[int]
    truncated: bool = False
    kept: Sequence[int] | None = None
    inputs_embeds: Tensor | None = None
    masked: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def indices(self) -> Sequence[int]:
        """Index of each token in the text before it was truncated."""
        return range(len(self)) if self.kept is None else self.kept


@dataclass(frozen=True)
class Packed:
    """N sequences of T tokens in all, sorted so that the sequences of each owner are contiguous.

    Attributes:
        input_ids, position_ids, token_type_ids: int64 `[T]` each.
        lengths: Tokens of each sequence, in packed order.
        owners: Owner of each sequence, in packed order, ascending; -1 is the plain backbone.
        order: For each packed sequence, its index among the sequences that were given.
        masked: Masked tokens of each sequence, in packed order.
        inputs_embeds: Word embeddings to use instead of those of `input_ids`, `[T, e]`.
    """

    input_ids: Tensor
    position_ids: Tensor
    token_type_ids: Tensor
    lengths: tuple[int, ...]
    owners: tuple[int, ...]
    order: tuple[int, ...]
    masked: tuple[tuple[tuple[int, int], ...], ...]
    inputs_embeds: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.input_ids.device

    @property
    def n_sequences(self) -> int:
        """Number of sequences, N."""
        return len(self.lengths)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Index of each sequence's first token, then T: N + 1 numbers."""
        return (0, *accumulate(self.lengths))

    @cached_property
    def starts(self) -> Tensor:
        """Index of each sequence's first token, int64 `[N]`."""
        return torch.tensor(self.offsets[:-1], device=self.device)

    def select(self, sequences: Sequence[int]) -> Packed:
        """The batch with some of its sequences; owners keep their numbers.

        Args:
            sequences: Packed sequences, ascending.
        """
        index = torch.cat([torch.arange(*self.offsets[n : n + 2]) for n in sequences])
        index = index.to(self.device)
        return Packed(
            input_ids=self.input_ids[index],
            position_ids=self.position_ids[index],
            token_type_ids=self.token_type_ids[index],
            lengths=tuple(self.lengths[n] for n in sequences),
            owners=tuple(self.owners[n] for n in sequences),
            order=tuple(self.order[n] for n in sequences),
            inputs_embeds=None if self.inputs_embeds is None else self.inputs_embeds[index],
            masked=tuple(self.masked[n] for n in sequences),
        )

    def firsts(self, states: Tensor) -> Tensor:
        """State of each sequence's first token, `[N, h]`.

        Args:
            states: State of every token, `[T, h]`.
        """
        return states.index_select(0, self.starts)

    def means(self, states: Tensor) -> Tensor:
        """Mean state of each sequence's tokens, special ones included, `[N, h]`.

        Args:
            states: State of every token, `[T, h]`.
        """
        # In float32, because half precision loses the last bits of a sum over hundreds of tokens,
        # and by an operator that sums in order: `index_add` sums in any order on a GPU.
        index = torch.arange(len(states), device=states.device)
        means = F.embedding_bag(index, states.float(), self.starts, mode="mean")
        return means.to(states.dtype)

    def tokens_of(self, states: Tensor, span: tuple[int, int]) -> Tensor:
        """States of the tokens of some sequences, `[t, h]`.

        Args:
            states: State of every token, `[T, h]`.
            span: First and past-the-last of the packed sequences.
        """
        start, end = (self.offsets[index] for index in span)
        return states[start:end]

    def span(self, owner: int) -> tuple[int, int]:
        """First and past-the-last packed sequence of an owner; equal if it has none."""
        return self._spans.get(owner, (0, 0))

    @cached_property
    def _spans(self) -> dict[int, tuple[int, int]]:
        ends = [n for n in range(1, len(self.owners)) if self.owners[n] != self.owners[n - 1]]
        ends = [0, *ends, len(self.owners)]
        return {self.owners[a]: (a, b) for a, b in pairwise(ends)}


def pack(
    inputs: Sequence[TokenSequence],
    owners: Sequence[int],
    first_positions: Sequence[int],
    device: torch.device | str = "cpu",
) -> Packed:
    """Lays sequences end to end, sorted by owner and then by length.

    Args:
        inputs: The sequences, at least one; all of them have `inputs_embeds`, or none.
        owners: Owner of each sequence; -1 is the plain backbone.
        first_positions: Position id of each sequence's first token.
        device: Where the tensors go.
    """
    order = sorted(range(len(inputs)), key=lambda i: (owners[i], len(inputs[i]), i))
    lengths = np.array([len(inputs[i]) for i in order])
    shift = np.array([first_positions[i] for i in order]) - (np.cumsum(lengths) - lengths)
    numbers = np.empty((3, lengths.sum()), np.int64)
    numbers[0] = list(chain.from_iterable(inputs[i].input_ids for i in order))
    numbers[1] = np.arange(len(numbers[1])) + np.repeat(shift, lengths)
    numbers[2] = list(chain.from_iterable(inputs[i].token_type_ids for i in order))
    rows = torch.from_numpy(numbers).to(device, non_blocking=True)
    embeds = [embed for i in order if (embed := inputs[i].inputs_embeds) is not None]
    return Packed(
        input_ids=rows[0],
        position_ids=rows[1],
        token_type_ids=rows[2],
        lengths=tuple(len(inputs[i]) for i in order),
        owners=tuple(owners[i] for i in order),
        order=tuple(order),
        inputs_embeds=torch.cat(embeds) if embeds else None,
        masked=tuple(inputs[i].masked for i in order),
    )


@dataclass(frozen=True)
class EncoderOutput:
    """The output of the backbone for a packed batch.

    Attributes:
        tokens: Hidden state of every token, `[T, h]`.
        packed: The batch.
        pooler: The backbone's own pooler, `[n, h] -> [n, h]`; None if its checkpoint has none.
        pooler_input: The pooling that the pooler reads.
        lm_head: The backbone's word embeddings as a decoder; None if their width is not h.
    """

    tokens: Tensor
    packed: Packed
    pooler: Callable[[Tensor], Tensor] | None = None
    lm_head: LMHead | None = None
    pooler_input: Literal["cls", "mean"] = "cls"

    @cached_property
    def first(self) -> Tensor:
        """Hidden state of each sequence's first token, `[N, h]`."""
        return self.packed.firsts(self.tokens)

    @cached_property
    def mean(self) -> Tensor:
        """Mean hidden state of each sequence's tokens, special ones included, `[N, h]`."""
        return self.packed.means(self.tokens)

    def pooled(self, pooling: Pooling) -> Tensor:
        """One vector for each packed sequence, `[N, h]`.

        Raises:
            BackboneError: The pooler is asked for, and the checkpoint has none.
        """
        if pooling == "mean":
            return self.mean
        if pooling == "cls":
            return self.first
        if self.pooler is None:
            raise BackboneError("the backbone's checkpoint has no pooler; pool by mean or cls")
        return self.pooler(self.pooled(self.pooler_input))
