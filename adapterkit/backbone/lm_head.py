"""How a backbone says tokens: BERT's head for masked language modelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

DENSE, NORM = "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
BIAS = "cls.predictions.bias"
"""The head's tensors as transformers names them: dense layer, norm, and the vocabulary's bias."""

CHUNK = 256
"""Positions scored at a time: their `[CHUNK, V]` scores are the most that is ever held."""


@dataclass(frozen=True)
class LMHead:
    """The tied decoder of a backbone, and its checkpoint's own head before it.

    Attributes:
        embeddings: The frozen word embeddings, `[V, h]`.
        tensors: The checkpoint's head, float32, by the names above; empty where it has none.
        eps: Of the norm.
    """

    embeddings: Tensor
    tensors: Mapping[str, Tensor]
    eps: float

    def guesses(self, states: Tensor, head: Mapping[str, Tensor], goal: Tensor, top: int) -> Tensor:
        """What the head says at some positions (Devlin et al. 2019).

        Semantics: `log softmax(E norm(gelu(W states + w)) + bias)`, of which the goal's and the
        `top` highest are kept; the gradient is that of the goal's.

        Args:
            states: Hidden states, `[m, h]`.
            head: Tensors in place of the checkpoint's.
            goal: The right token of each, -1 where nobody knows, `[m]`.
            top: How many guesses.

        Returns:
            `[m, 1 + 2 * top]` float32: log-probability of the goal (0 where it is unknown), those
            of the best guesses from the best down, and the guessed tokens.
        """
        held = {**self.tensors, **head}
        states = F.gelu(F.linear(states, held[f"{DENSE}.weight"], held[f"{DENSE}.bias"]))
        scale, shift = held[f"{NORM}.weight"], held[f"{NORM}.bias"]
        states = F.layer_norm(states.float(), (states.shape[-1],), scale, shift, self.eps)
        apply: Any = _Guesses.apply
        lines: Tensor = torch.cat(apply(states, self.embeddings, held.get(BIAS), goal, top), dim=1)
        return lines


class _Guesses(torch.autograd.Function):
    """A frozen decoder whose scores are gone before the next chunk's come: the gradient towards
    the states, `E[goal] - softmax E`, is taken while they are there."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, embeddings: Tensor, bias: Tensor | None, goal: Tensor, top: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        goals, scores, tokens, slopes = [], [], [], []
        with torch.autocast(states.device.type, enabled=False):
            for part, right in zip(states.split(CHUNK), goal.split(CHUNK), strict=True):
                z = F.linear(part.to(embeddings.dtype), embeddings).float()
                if bias is not None:
                    z += bias
                z = z.log_softmax(-1)
                known, right = (right >= 0)[:, None], right.clamp(min=0)[:, None]
                goals.append(z.gather(1, right) * known)
                best = z.topk(top)
                scores.append(best.values)
                tokens.append(best.indices.float())
                if ctx.needs_input_grad[0]:
                    expected = z.exp_().to(embeddings.dtype) @ embeddings
                    slopes.append((embeddings[right[:, 0]] - expected).float() * known)
        ctx.save_for_backward(*slopes)
        found = torch.cat(goals), torch.cat(scores), torch.cat(tokens)
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return gradients[0] * torch.cat(ctx.saved_tensors), None, None, None, None
