"""The head for masked language modelling, BERT's, over the backbone's own word embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

DENSE, NORM = "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
DECODER = "cls.predictions"
BIAS = f"{DECODER}.bias"
"""Dense layer, norm, decoder and its bias: the names that adapter files use in every family. They
are those of transformers' BERT."""

CHUNK = 256
"""Tokens that are scored at a time, so that no more than `[CHUNK, V]` scores are in memory."""


def head_shape(name: str, tokens: int, hidden: int) -> tuple[int, ...]:
    """Shape of a tensor of the head: `[h, h]`, `[V]` or `[h]`.

    Args:
        name: One of the names above, with `.weight` or `.bias` at the end.
        tokens: Size of the vocabulary, V.
        hidden: Width of the hidden state, h.
    """
    if name == f"{DENSE}.weight":
        return (hidden, hidden)
    return (tokens,) if name == BIAS else (hidden,)


@dataclass(frozen=True)
class LMHead:
    """A decoder tied to the word embeddings, and the transform before it.

    Attributes:
        embeddings: The frozen word embeddings, `[V, h]`.
        tensors: The checkpoint's head, float32, by the names above; empty if it has none.
        eps: Epsilon of the norm.
    """

    embeddings: Tensor
    tensors: Mapping[str, Tensor]
    eps: float

    def top_tokens(
        self, states: Tensor, head: Mapping[str, Tensor], target: Tensor, top: int
    ) -> Tensor:
        """Log-probabilities of the target and of the most probable tokens (Devlin et al. 2019).

        Semantics: `log softmax(E norm(gelu(W states + w)) + bias)`. Only the log-probability of the
        target has a gradient.

        Args:
            states: Hidden states, `[m, h]`.
            head: Tensors that replace the checkpoint's.
            target: The right token of each state, -1 if it is unknown, int64 `[m]`.
            top: Number of most probable tokens.

        Returns:
            `[m, 1 + 2 * top]` float32: log-probability of the target (0 if it is unknown),
            log-probabilities of the most probable tokens, highest first, and those tokens.
        """
        tensors = {**self.tensors, **head}
        states = transform(states, tensors, self.eps)
        apply: Any = _Decode.apply
        columns = apply(states, self.embeddings, tensors.get(BIAS), target, top)
        return torch.cat(columns, dim=1)


def transform(states: Tensor, tensors: Mapping[str, Tensor], eps: float) -> Tensor:
    """Dense layer, GELU and norm of a head, `[m, h]` to float32 `[m, h]`.

    Args:
        states: Hidden states.
        tensors: Weights and biases by the names above.
        eps: Epsilon of the norm.
    """
    states = F.gelu(F.linear(states, tensors[f"{DENSE}.weight"], tensors[f"{DENSE}.bias"]))
    weight, shift = tensors[f"{NORM}.weight"], tensors[f"{NORM}.bias"]
    return F.layer_norm(states.float(), (states.shape[-1],), weight, shift, eps)


class _Decode(torch.autograd.Function):
    """A frozen decoder that keeps no scores for the backward pass.

    The gradient towards the states, `E[target] - softmax E`, is computed in the forward pass, chunk
    by chunk, as long as the scores of the chunk are in memory.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, embeddings: Tensor, bias: Tensor | None, target: Tensor, top: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_target, of_best, best_tokens, gradients = [], [], [], []
        with torch.autocast(states.device.type, enabled=False):
            for part, right in zip(states.split(CHUNK), target.split(CHUNK), strict=True):
                z = F.linear(part.to(embeddings.dtype), embeddings).float()
                if bias is not None:
                    z += bias
                z = z.log_softmax(-1)
                known, right = (right >= 0)[:, None], right.clamp(min=0)[:, None]
                of_target.append(z.gather(1, right) * known)
                best = z.topk(top)
                of_best.append(best.values)
                best_tokens.append(best.indices.float())
                if ctx.needs_input_grad[0]:
                    expected = z.exp_().to(embeddings.dtype) @ embeddings
                    gradients.append((embeddings[right[:, 0]] - expected).float() * known)
        ctx.save_for_backward(*gradients)
        outputs = torch.cat(of_target), torch.cat(of_best), torch.cat(best_tokens)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return gradients[0] * torch.cat(ctx.saved_tensors), None, None, None, None
