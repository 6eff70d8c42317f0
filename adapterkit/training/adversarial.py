"""Adversarial training: every sequence once more, with perturbed word embeddings.

The fast gradient method on word embeddings (Miyato, Dai & Goodfellow 2017, arXiv:1605.07725): with
g the gradient of the loss with respect to the word embeddings of one sequence, `epsilon * g /
||g||` is added to them, and the gradients of the clean and of the perturbed loss are added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from .batches import MicroBatch


class Attack:
    """The rows of one micro-batch, first clean and after the backward pass perturbed.

    Args:
        micro_batch: The rows.
        backbone: The backbone whose word embeddings are looked up, unless the rows bring their own.
    """

    def __init__(self, micro_batch: MicroBatch, backbone: Backbone) -> None:
        self._micro_batch, self._backbone = micro_batch, backbone
        # Zeros that are added collect the gradient, and not the embeddings themselves: if those are
        # trained too, their gradient goes on to the embedding table.
        self._zeros = [
            torch.zeros_like(self._embeddings(sequence), requires_grad=True)
            for sequence in micro_batch.sequences
        ]

    def clean(self) -> MicroBatch:
        """The rows without perturbation; a backward pass through them finds the gradients."""
        return self._with_added(self._zeros)

    def perturbed(self, epsilon: float) -> MicroBatch:
        """The rows after that backward pass, with perturbations of L2 norm epsilon."""
        gradients = (x.grad if x.grad is not None else torch.zeros_like(x) for x in self._zeros)
        return self._with_added(perturbation(g, epsilon).to(g.dtype) for g in gradients)

    def _with_added(self, perturbations: Iterable[Tensor]) -> MicroBatch:
        """The rows with `[n, e]` added to the word embeddings of each sequence."""
        remaining = iter(perturbations)
        examples = [
            replace(
                example,
                inputs=tuple(
                    replace(sequence, inputs_embeds=self._embeddings(sequence) + next(remaining))
                    for sequence in example.inputs
                ),
            )
            for example in self._micro_batch.examples
        ]
        return replace(self._micro_batch, examples=examples)

    def _embeddings(self, sequence: TokenSequence) -> Tensor:
        if sequence.inputs_embeds is not None:
            return sequence.inputs_embeds
        return self._backbone.word_embeddings(sequence.input_ids)


def perturbation(gradient: Tensor, epsilon: float) -> Tensor:
    """`epsilon * g / ||g||_2` of the gradient of one sequence, `[n, e]`, float32.

    Zeros if the gradient is zero or not finite. A positive factor of the gradient, such as a row's
    weight in its batch or the loss scale of half precision, changes nothing.

    Args:
        gradient: `[n, e]`.
        epsilon: The norm of the result.
    """
    gradient = gradient.float()
    largest = gradient.abs().amax()
    scaled = gradient / largest  # so that squares neither overflow nor vanish
    found = epsilon * scaled / scaled.norm()
    return torch.where(largest.isfinite() & (largest > 0), found, torch.zeros_like(found))
