"""Adapters under training, and one forward over a piece of each one's batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..inference.forward import AdapterOutput, forward
from ..inference.shared_layers import StateCache
from ..ops.dropout import Dropout, DropoutSeed
from ..tasks.base import Task
from ..tasks.types import Example, Outputs
from .recipe import Training


@dataclass(frozen=True)
class Portion:
    """What one process computes of one adapter's batch at a time.

    Attributes:
        examples, targets: The rows.
        weights: Share of each row's loss in the batch's loss.
        places: Place of each of the rows' sequences in the whole batch.
        lengths: Tokens of every sequence of the whole batch.
        seed: Of this step's dropout.
    """

    examples: list[Example]
    targets: list[Any]
    weights: list[float]
    places: list[int]
    lengths: list[int]
    seed: int

    @property
    def inputs(self) -> Iterator[TokenSequence]:
        """The rows' sequences."""
        return (inputs for example in self.examples for inputs in example.inputs)

    @property
    def n_tokens(self) -> int:
        """Tokens of the rows."""
        return sum(map(len, self.inputs))

    def draws(self, sequences: Iterable[int]) -> DropoutSeed:
        """Where the dropout of some of the rows' sequences is drawn from."""
        return DropoutSeed(self.seed, self.lengths, [self.places[n] for n in sequences])

    def posed(self, task: Task) -> Portion:
        """The rows as the task puts them to the model: what it draws hangs on a row's place in the
        whole batch, like its dropout."""
        starts = accumulate((len(example.inputs) for example in self.examples), initial=0)
        examples = [
            task.masked_for(example, f"{self.seed} {self.places[start]}")
            for example, start in zip(self.examples, starts, strict=False)
        ]
        return replace(self, examples=examples)

    def only(self, rows: Sequence[int]) -> Portion:
        """Some of the rows."""
        firsts = list(accumulate((len(example.inputs) for example in self.examples), initial=0))
        return replace(
            self,
            examples=[self.examples[row] for row in rows],
            targets=[self.targets[row] for row in rows],
            weights=[self.weights[row] for row in rows],
            places=[place for row in rows for place in self.places[slice(*firsts[row : row + 2])]],
        )

    def loss(self, adapter: Adapter, piece: AdapterOutput) -> Tensor:
        """The weighted losses of the rows, summed."""
        counts = iter(piece.counts)
        by_row = tuple(tuple(next(counts) for _ in row.inputs) for row in self.examples)
        losses = adapter.task.loss(Outputs(piece.values, by_row), self.targets)
        return (losses * torch.tensor(self.weights, device=losses.device)).sum()


class Trainee(nn.Module):
    """One adapter's tensors and head as parameters."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.start = adapter
        self.tensors = nn.ParameterDict({_flat(k): v.clone() for k, v in adapter.tensors.items()})
        self.head = nn.ParameterDict({_flat(k): v.clone() for k, v in adapter.head.items()})

    @property
    def adapter(self) -> Adapter:
        """The adapter as it stands; its tensors are the parameters themselves."""
        return replace(
            self.start,
            tensors={name: self.tensors[_flat(name)] for name in self.start.tensors},
            head={name: self.head[_flat(name)] for name in self.start.head},
        )

    def parts(self, settings: Training) -> list[tuple[Mapping[str, nn.Parameter], float]]:
        """What is trained, by name, with its peak learning rate."""
        method = self.start.method
        return [
            (dict(self.tensors.items()), settings.learning_rate or method.learning_rate),
            (dict(self.head.items()), settings.head_learning_rate or method.head_learning_rate),
        ]

    def kept(self) -> Adapter:
        """A copy of the adapter as it stands, to fall back on."""
        adapter = self.adapter
        return replace(adapter, tensors=_copied(adapter.tensors), head=_copied(adapter.head))

    def settle(self) -> None:
        """Called once after the last step: nothing but the adapter was changed, and it is kept."""


class Trainees(nn.Module):
    """All adapters under training as one module, so that Accelerate sees their parameters alone.

    The backbone is not a sub-module: it is frozen, shared and not wrapped by anything.
    """

    def __init__(
        self, backbone: Backbone, members: Iterable[Trainee], memory: StateCache | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.memory = memory
        self.members: Any = nn.ModuleList(members)

    def forward(self, portions: Mapping[int, Portion]) -> Tensor:
        """Losses of pieces of some adapters' batches, through one packed forward.

        No adapter's loss depends on another's rows, so the gradient of their sum holds each one's
        own.

        Args:
            portions: Number of the adapter to the piece of its batch, as its task poses it.

        Returns:
            `[n]`, in the order of the portions.
        """
        return self.losses(portions, {n: self.members[n].adapter for n in portions})

    def losses(self, portions: Mapping[int, Portion], adapters: Mapping[int, Adapter]) -> Tensor:
        """As `forward`, of adapters over tensors that the caller chooses."""
        source = [(n, at) for n, portion in portions.items() for at in range(len(portion.places))]

        def noise(order: tuple[int, ...]) -> Dropout:
            """The rows lie adapter by adapter: each one's own draws, in packed order."""
            owned = groupby((source[row] for row in order), key=lambda pair: pair[0])
            draws = [portions[n].draws([at for _, at in pairs]) for n, pairs in owned]
            return Dropout(draws, self.backbone.device)

        rows = [
            (adapters[n], inputs) for n, portion in portions.items() for inputs in portion.inputs
        ]
        said = {
            id(piece.adapter): piece for piece in forward(self.backbone, rows, noise, self.memory)
        }
        return torch.stack(
            [
                portion.loss(adapters[n], said[id(adapters[n])]).float()
                for n, portion in portions.items()
            ]
        )


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _flat(name: str) -> str:
    """ParameterDict keys may not hold dots."""
    return name.replace(".", "__")
