"""Adversarial training: each sequence once more, moved a little to where its loss grows fastest.

The fast gradient method on word embeddings (Miyato, Dai & Goodfellow 2017, arXiv:1605.07725): with
g the gradient of the loss towards the word embeddings of one sequence, they are moved by
`epsilon * g / ||g||`, and the gradients of both losses, as it was and moved, are added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from .trainable import Portion


class Attack:
    """Rows of one piece of a batch: first as they are, and after the backward pass moved.

    Args:
        portion: The rows.
        backbone: Whose word embeddings they are read with, unless they bring their own.
    """

    def __init__(self, portion: Portion, backbone: Backbone) -> None:
        self._portion, self._backbone = portion, backbone
        # A step of zeros, and not the words, collects the gradient: where the words themselves are
        # trained, theirs goes on to the table.
        self._steps = [
            torch.zeros_like(self._words(inputs), requires_grad=True) for inputs in portion.inputs
        ]

    def standing(self) -> Portion:
        """The rows as they are; a backward pass over them finds where they would move."""
        return self._by(self._steps)

    def moved(self, epsilon: float) -> Portion:
        """The rows after that backward pass, each sequence moved by a norm of epsilon."""
        grads = (one.grad if one.grad is not None else torch.zeros_like(one) for one in self._steps)
        return self._by(step(gradient, epsilon).to(gradient.dtype) for gradient in grads)

    def _by(self, steps: Iterable[Tensor]) -> Portion:
        left = iter(steps)
        examples = [
            replace(
                example,
                inputs=tuple(
                    replace(inputs, inputs_embeds=self._words(inputs) + next(left))
                    for inputs in example.inputs
                ),
            )
            for example in self._portion.examples
        ]
        return replace(self._portion, examples=examples)

    def _words(self, inputs: TokenSequence) -> Tensor:
        return (
            self._backbone.word_embeddings(inputs.input_ids)
            if inputs.inputs_embeds is None
            else inputs.inputs_embeds
        )


def step(gradient: Tensor, epsilon: float) -> Tensor:
    """`epsilon * g / ||g||_2` over all of one sequence, float32.

    Zeros where the gradient is zero or no number. A positive factor on it, such as a row's weight
    in its batch or the scale of half precision, changes nothing.

    Args:
        gradient: `[n, e]`.
        epsilon: The norm.
    """
    gradient = gradient.float()
    most = gradient.abs().amax()
    scaled = gradient / most  # so that squares neither overflow nor vanish
    found = epsilon * scaled / scaled.norm()
    return torch.where(most.isfinite() & (most > 0), found, torch.zeros_like(found))
