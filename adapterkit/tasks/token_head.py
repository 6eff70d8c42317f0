"""The head of tasks that answer for every token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .types import HeadInput


def token_logits(inputs: HeadInput, weight: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """A linear head on every token of an adapter's sequences, `[t, C]` float32.

    Args:
        inputs: The sequences.
        weight: `[C, h]`.
        bias: `[C]`.
        dropout: Share of each token's hidden state that is dropped in training.
    """
    encoded = inputs.encoded
    states = encoded.packed.tokens_of(encoded.tokens, inputs.span).float()
    if inputs.dropout is not None:
        states = inputs.dropout.drop_tokens(states, dropout)
    return F.linear(states, weight, bias)
