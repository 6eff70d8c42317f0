"""Forward and backward of one step in lanes: parts of the rows, each on its own cores.

The gradients of the parts add up to those of all rows. So any number of lanes learns the same, but
for the rounding of one sum, whose order never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from torch import Tensor

from ..adapter.adapter import Adapter
from ..inference.lanes import LEAST_TOKENS, WorkerLanes
from .batches import MicroBatch
from .trainable import TrainableAdapters


def split_over_lanes(
    micro_batches: Mapping[int, MicroBatch], unsplit: set[int], lanes: WorkerLanes
) -> list[dict[int, MicroBatch]]:
    """Splits micro-batches into parts of about equal numbers of tokens, one for each lane.

    The rows of an adapter stay together, except for those of an adapter where one part ends and
    the next begins; there the short rows go into the first part.

    Args:
        micro_batches: Index of the adapter to its micro-batch.
        unsplit: Indices of adapters whose rows must stay in one part.
        lanes: The lanes that will compute the parts.

    Returns:
        At least one part, and no more parts than have enough tokens for a lane.
    """
    total = sum(micro_batch.n_tokens for micro_batch in micro_batches.values())
    n_parts = min(lanes.n, total // LEAST_TOKENS)
    if n_parts < 2:
        return [dict(micro_batches)]
    parts: list[dict[int, list[int]]] = [{} for _ in range(n_parts)]
    before = 0
    for index, rows, n_tokens in _units(micro_batches, unsplit):
        part = parts[(2 * before + n_tokens) * n_parts // (2 * total)]
        part.setdefault(index, []).extend(rows)
        before += n_tokens
    return [
        {index: micro_batches[index].select(rows) for index, rows in part.items()}
        for part in parts
        if part
    ]


def _units(
    micro_batches: Mapping[int, MicroBatch], unsplit: set[int]
) -> Iterator[tuple[int, Sequence[int], int]]:
    """The smallest units that a part can take: index of the adapter, rows, and their tokens."""
    for index, micro_batch in micro_batches.items():
        sizes = [sum(map(len, example.inputs)) for example in micro_batch.examples]
        if index in unsplit:
            yield index, range(len(sizes)), sum(sizes)
        else:
            for row in sorted(range(len(sizes)), key=sizes.__getitem__):
                yield index, [row], sizes[row]


def backward(
    trainables: TrainableAdapters,
    parts: Sequence[Mapping[int, MicroBatch]],
    lanes: WorkerLanes,
    autocast: Callable[[], AbstractContextManager[object]],
) -> dict[int, Tensor]:
    """Adds the gradients of all parts to the parameters.

    Args:
        trainables: The adapters under training.
        parts: The parts, as `split_over_lanes` returns them.
        lanes: The lanes that compute them.
        autocast: Opens the scope of mixed precision in which a forward runs.

    Returns:
        Index of each adapter to the loss of its rows, a scalar.
    """

    def compute(part: Mapping[int, MicroBatch]) -> tuple[list[Tensor], dict[int, Adapter]]:
        adapters = {index: _with_own_leaves(trainables.members[index].adapter) for index in part}
        with autocast():
            losses = trainables.losses(part, adapters)
        losses.sum().backward()
        return list(losses.detach()), adapters

    summed: dict[int, Tensor] = {}
    for losses, adapters in lanes.map(compute, parts):
        for (index, leaves), loss in zip(adapters.items(), losses, strict=True):
            summed[index] = summed[index] + loss if index in summed else loss
            _add_gradients(trainables.members[index].adapter, leaves)
    return summed


def _with_own_leaves(adapter: Adapter) -> Adapter:
    """The adapter over the same memory, but with leaves that collect gradients of their own."""

    def leaves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.detach().requires_grad_(x.requires_grad) for name, x in tensors.items()}

    return replace(adapter, tensors=leaves(adapter.tensors), head=leaves(adapter.head))


def _add_gradients(adapter: Adapter, leaves: Adapter) -> None:
    for parameters, own in ((adapter.tensors, leaves.tensors), (adapter.head, leaves.head)):
        for name, leaf in own.items():
            if leaf.grad is not None:
                parameter = parameters[name]
                before = parameter.grad
                parameter.grad = leaf.grad if before is None else before.add_(leaf.grad)
