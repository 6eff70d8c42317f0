"""Whole batches in pieces: the gradient of a loss that compares the rows of a batch.

Gradient caching (Gao et al. 2021, arXiv:2101.06983): the outputs of all pieces are computed without
gradients, then the loss of the whole batch and its gradient towards the outputs. Each piece is then
computed again, and its part of that gradient is carried on to the parameters. The result is that of
the whole batch; a step takes one more forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from ..inference.forward import AdapterOutput
from .batches import MicroBatch
from .trainable import TrainableAdapters


def with_output_gradients(
    trainables: TrainableAdapters,
    index: int,
    pieces: Sequence[MicroBatch],
    autocast: Callable[[], AbstractContextManager[object]],
) -> tuple[list[MicroBatch], Tensor]:
    """The pieces of a batch, each with the gradient of the batch's loss towards its outputs.

    Args:
        trainables: The adapters under training.
        index: Index of the adapter.
        pieces: The micro-batches that together are the batch.
        autocast: Opens the scope of mixed precision in which a forward runs.

    Returns:
        The pieces, and the loss of the batch, a scalar.
    """
    adapter = trainables.members[index].adapter
    with torch.no_grad(), autocast():
        outputs = [trainables.outputs({index: p}, {index: adapter})[index] for p in pieces]
    values = torch.cat([output.values for output in outputs]).detach().requires_grad_()
    trainables.backbone.settle()  # the loss may gather outputs, and others may have more pieces
    counts = tuple(chain.from_iterable(output.counts for output in outputs))
    rows = tuple(range(len(counts)))
    loss = _whole(pieces).loss(adapter, AdapterOutput(adapter, rows, values, counts)).float()
    (gradient,) = torch.autograd.grad(loss, values)
    parts = gradient.split([sum(output.counts) for output in outputs])
    return [
        replace(piece, output_gradient=part) for piece, part in zip(pieces, parts, strict=True)
    ], loss.detach()


def _whole(pieces: Sequence[MicroBatch]) -> MicroBatch:
    """The batch that was cut into pieces."""
    return replace(
        pieces[0],
        examples=[example for piece in pieces for example in piece.examples],
        targets=[target for piece in pieces for target in piece.targets],
        weights=[weight for piece in pieces for weight in piece.weights],
        sequence_indices=[index for piece in pieces for index in piece.sequence_indices],
    )
