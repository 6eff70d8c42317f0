"""The training rows in batches, each of which depends on seed, epoch and step alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from torch import Tensor, tensor

from ..adapter.adapter import Adapter
from ..backbone.packing import TokenSequence
from ..inference.forward import AdapterOutput, by_budget
from ..inference.labelled import Split
from ..ops.dropout import DropoutSeed
from ..tasks.base import Task
from ..tasks.types import Example, Outputs
from .shared_batch import SharedBatch
from .training_section import Training


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one adapter's batch that one process computes in one forward.

    Attributes:
        examples: The rows.
        targets: The answer that is right for each row.
        weights: Share of each row's loss in the loss of the batch.
        sequence_indices: For each sequence of the rows its index among those of the batch.
        batch_lengths: Tokens of every sequence of the batch.
        seed: Seed of dropout and of hidden tokens; it differs from step to step.
        output_gradient: Gradient of the loss of the batch towards the outputs for these rows; None
            if their loss is computed from the outputs (see `cached_gradients`).
        shared: The whole batch, if its rows are compared and other processes compute some of them.
    """

    examples: list[Example]
    targets: list[Any]
    weights: list[float]
    sequence_indices: list[int]
    batch_lengths: list[int]
    seed: int
    output_gradient: Tensor | None = None
    shared: SharedBatch | None = None

    @property
    def is_gathered(self) -> bool:
        """Whether its loss gathers the outputs of all processes."""
        return self.shared is not None and self.output_gradient is None

    @property
    def sequences(self) -> Iterator[TokenSequence]:
        """The token sequences of the rows."""
        return (sequence for example in self.examples for sequence in example.inputs)

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(map(len, self.sequences))

    def dropout_seed(self, sequences: Iterable[int]) -> DropoutSeed:
        """The seed of dropout for some of the sequences.

        Args:
            sequences: Their indices in this micro-batch.
        """
        rows = [self.sequence_indices[index] for index in sequences]
        return DropoutSeed(self.seed, self.batch_lengths, rows)

    def masked_for(self, task: Task) -> MicroBatch:
        """The rows with the tokens hidden that the task hides.

        Which tokens these are depends on the seed and on the index of the row's first sequence in
        the batch, as dropout does, and not on how the batch is cut.
        """
        examples = [
            task.masked_for(example, f"{self.seed} {self.sequence_indices[first]}")
            for example, first in zip(self.examples, self._first_sequences(), strict=False)
        ]
        return replace(self, examples=examples)

    def select(self, rows: Sequence[int]) -> MicroBatch:
        """Some of the rows.

        Args:
            rows: Their indices in this micro-batch.
        """
        firsts = self._first_sequences()
        return replace(
            self,
            examples=[self.examples[row] for row in rows],
            targets=[self.targets[row] for row in rows],
            weights=[self.weights[row] for row in rows],
            sequence_indices=[
                index
                for row in rows
                for index in self.sequence_indices[firsts[row] : firsts[row + 1]]
            ],
        )

    def cut(self, max_tokens: int | None) -> list[MicroBatch]:
        """Parts of at most so many tokens, or of one row; all rows in one part if omitted."""
        if max_tokens is None:
            return [self]
        sizes = [sum(map(len, example.inputs)) for example in self.examples]
        return [self.select(rows) for rows in by_budget(sizes, max_tokens)]

    def loss(self, adapter: Adapter, output: AdapterOutput) -> Tensor:
        """The weighted sum of the rows' losses, a scalar; with `output_gradient` a scalar of the
        same gradient.

        Args:
            adapter: The adapter whose rows these are.
            output: Its output for the sequences of these rows.
        """
        if self.output_gradient is not None:
            return (output.values * self.output_gradient).sum()
        counts = iter(output.counts)
        by_row = tuple(tuple(next(counts) for _ in example.inputs) for example in self.examples)
        outputs = Outputs(output.values, by_row)
        if self.shared is None:
            losses = adapter.task.loss(outputs, self.targets)
        else:
            losses = self.shared.losses(adapter.task, outputs)
        return (losses * tensor(self.weights, device=losses.device)).sum()

    def _first_sequences(self) -> list[int]:
        """For each row the index of its first sequence here, and the number of sequences."""
        return list(accumulate((len(example.inputs) for example in self.examples), initial=0))


class Batches:
    """The batches of one run.

    Nothing is drawn from a generator that goes on from batch to batch: any batch can be computed
    without those before it.

    Args:
        split: The training rows.
        settings: Batch size, accumulation and seed.
        task: The task, which may hide tokens.
        augmented: From indices of training rows, epoch and seed to these rows as that epoch has
            them; if omitted, they are the same in every epoch.
    """

    def __init__(
        self,
        split: Split,
        settings: Training,
        task: Task,
        augmented: Callable[[Sequence[int], int, int], Split] | None = None,
    ) -> None:
        self.steps_per_epoch = math.ceil(len(split) / settings.batch_size)
        self._split, self._settings, self._task = split, settings, task
        self._augmented = augmented
        self._order: tuple[int, list[int]] = (0, [])  # of the last epoch that was asked for

    @property
    def n_tokens(self) -> int:
        """Tokens of all training rows."""
        return sum(len(one) for example in self._split.examples for one in example.inputs)

    def at(self, epoch: int, step: int) -> Split:
        """The rows of one batch.

        Args:
            epoch: Counted from 1.
            step: Counted from 0 in every epoch.
        """
        first = step * self._settings.batch_size
        rows = self._rows_of(epoch)[first : first + self._settings.batch_size]
        if self._augmented is None:
            return self._split.select(rows)
        return self._augmented(rows, epoch, self._settings.seed)

    def micro_batches(
        self,
        epoch: int,
        step: int,
        process: int = 0,
        n_processes: int = 1,
        max_tokens: int | None = None,
    ) -> list[MicroBatch]:
        """What one process computes of a batch: `training.accumulation` micro-batches, or more if
        these have too many tokens.

        A process that has no row for one of them gets a row of weight zero, because every process
        must take part in every forward.

        Args:
            epoch: Counted from 1.
            step: Counted from 0 in every epoch.
            process: Index of the process.
            n_processes: Number of processes that share the batch.
            max_tokens: Most tokens of a micro-batch of several rows; if omitted, any number.
        """
        batch, pieces = self.at(epoch, step), self._settings.accumulation
        whole = self._whole(batch, (epoch - 1) * self.steps_per_epoch + step)
        own = range(process, len(batch), n_processes)
        found: list[MicroBatch] = []
        computed: list[int] = []
        for first in range(pieces):
            rows = own[first::pieces]
            if rows:
                found += whole.select(rows).cut(max_tokens)
            else:
                found.append(replace(whole.select([0]), weights=[0.0]))
            computed += rows or [0]
        if n_processes > 1 and self._task.whole_batch:
            shared = SharedBatch(batch, tuple(computed))
            found = [replace(micro_batch, shared=shared) for micro_batch in found]
        return found

    def longest(self) -> MicroBatch:
        """As many of the longest rows as a batch has, the longest first."""
        sizes = [sum(map(len, example.inputs)) for example in self._split.examples]
        order = sorted(range(len(sizes)), key=lambda row: -sizes[row])
        return self._whole(self._split.select(order[: self._settings.batch_size]), 0)

    def _whole(self, batch: Split, number: int) -> MicroBatch:
        """All rows of a batch, which has a number of its own."""
        lengths = [len(sequence) for example in batch.examples for sequence in example.inputs]
        return MicroBatch(
            examples=list(batch.examples),
            targets=list(batch.targets),
            weights=[1.0 / len(batch)] * len(batch),
            sequence_indices=list(range(len(lengths))),
            batch_lengths=lengths,
            seed=self._settings.seed * 1_000_003 + number,
        ).masked_for(self._task)

    def _rows_of(self, epoch: int) -> list[int]:
        """Indices of all training rows in the order of an epoch."""
        if self._order[0] != epoch:
            order = list(range(len(self._split)))
            random.Random(f"{self._settings.seed} {epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._order[1]
