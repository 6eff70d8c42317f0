"""One step's forward and backward in lanes: parts of the rows, each on cores of its own.

Gradients of parts add up to those of the whole, so what is learnt is the same in any lanes but for
the rounding of one sum, which is always added in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from torch import Tensor

from ..adapter.adapter import Adapter
from ..inference.lanes import LEAST_TOKENS, WorkerLanes
from .trainable import Portion, Trainees


def parted(
    portions: Mapping[int, Portion], whole: set[int], lanes: WorkerLanes
) -> list[dict[int, Portion]]:
    """Pieces of some adapters' batches in parts of as many tokens, one for each lane.

    An adapter's rows stay together, but for those of one where a part ends; there the short ones
    go ahead of the long ones.

    Args:
        portions: Number of the adapter to its piece.
        whole: Numbers of adapters whose rows cannot be parted.
        lanes: Where the parts are meant for.

    Returns:
        At least one part, and no more than are worth a lane.
    """
    total = sum(portion.n_tokens for portion in portions.values())
    n = min(lanes.n, total // LEAST_TOKENS)
    if n < 2:
        return [dict(portions)]
    rows: list[dict[int, list[int]]] = [{} for _ in range(n)]
    done = 0
    for number, together, size in _units(portions, whole):
        part = rows[(2 * done + size) * n // (2 * total)]
        part.setdefault(number, []).extend(together)
        done += size
    return [{at: portions[at].only(own) for at, own in part.items()} for part in rows if part]


def _units(
    portions: Mapping[int, Portion], whole: set[int]
) -> Iterator[tuple[int, Sequence[int], int]]:
    """What cannot be parted further: an adapter's number, rows, and their tokens."""
    for number, portion in portions.items():
        sizes = [sum(map(len, example.inputs)) for example in portion.examples]
        if number in whole:
            yield number, range(len(sizes)), sum(sizes)
        else:
            for row in sorted(range(len(sizes)), key=sizes.__getitem__):
                yield number, [row], sizes[row]


def backward(
    trainees: Trainees,
    parts: Sequence[Mapping[int, Portion]],
    lanes: WorkerLanes,
    precision: Callable[[], AbstractContextManager[object]],
) -> dict[int, Tensor]:
    """Adds the gradients of all parts to the parameters'.

    Args:
        trainees: What is trained.
        parts: As `parted` made them.
        lanes: Where they are computed.
        precision: The scope a forward runs in.

    Returns:
        Number of each adapter to the loss of its rows.
    """

    def work(part: Mapping[int, Portion]) -> tuple[list[Tensor], dict[int, Adapter]]:
        adapters = {number: _leaves(trainees.members[number].adapter) for number in part}
        with precision():
            losses = trainees.losses(part, adapters)
        losses.sum().backward()
        return list(losses.detach()), adapters

    told: dict[int, Tensor] = {}
    for losses, adapters in lanes.map(work, parts):
        for (number, leaves), loss in zip(adapters.items(), losses, strict=True):
            told[number] = told[number] + loss if number in told else loss
            _add_gradients(trainees.members[number].adapter, leaves)
    return told


def _leaves(adapter: Adapter) -> Adapter:
    """The adapter over the same numbers, with gradients of its own."""

    def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.detach().requires_grad_(x.requires_grad) for name, x in tensors.items()}

    return replace(adapter, tensors=own(adapter.tensors), head=own(adapter.head))


def _add_gradients(adapter: Adapter, leaves: Adapter) -> None:
    for parameters, own in ((adapter.tensors, leaves.tensors), (adapter.head, leaves.head)):
        for name, leaf in own.items():
            if leaf.grad is not None:
                parameter = parameters[name]
                known = parameter.grad
                parameter.grad = leaf.grad if known is None else known.add_(leaf.grad)
