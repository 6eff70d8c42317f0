"""How many tokens one forward and backward may have, by the memory at hand."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..adapter.batching import batching_key
from ..errors import AdapterkitError, is_out_of_memory
from ..ops.available_memory import available_memory
from ..ops.peak_allocation import PeakAllocation
from .batches import MicroBatch
from .run import Run
from .trainable import TrainableAdapters

log = logging.getLogger("adapterkit")

STEP_TOKENS = 4096
"""Tokens beyond which a forward is hardly faster on a CPU. A gigabyte on minilm."""

SHARE = 0.6
"""Share of the free memory that activations may take. The rest is for what the trial does not see:
workspaces of operators, fragments of the allocator, and other programs."""

TRIAL_TOKENS = 256
"""Least tokens of the smaller of two trials, if the rows have as many."""


MOST_TOKENS = 2**62
"""More tokens than any batch has."""


@dataclass(frozen=True)
class MemoryUse:
    """The memory of one forward and backward.

    Attributes:
        fixed: Bytes whatever the number of tokens.
        per_token: Bytes of each further token.
    """

    fixed: float
    per_token: float

    def most_tokens(self, available: float) -> int:
        """The most tokens for some bytes: a power of two, so that small changes of the free memory
        change nothing, and at least 1."""
        tokens = int((available - self.fixed) / self.per_token)
        return 1 << max(0, tokens.bit_length() - 1)


class TokenBudgets:
    """The most tokens of each run in one forward: what its recipe says, less where that does not
    fit into memory.

    Args:
        accelerator: Accelerate's.
        trainables: The adapters under training.
        runs: The run of each, in the same order.
    """

    def __init__(
        self, accelerator: Accelerator, trainables: TrainableAdapters, runs: Sequence[Run]
    ) -> None:
        self._accelerator = accelerator
        self._trainables = trainables
        self._runs = runs
        self._device = trainables.backbone.device

    def least(self, indices: Iterable[int], most: int) -> int:
        """The most tokens of a forward that some runs share, and never more than `most`."""
        budgets = (self._runs[index].max_tokens for index in indices)
        return min([most, *(tokens for tokens in budgets if tokens is not None)])

    def decide(self) -> None:
        """Decides `max_tokens: auto` of runs that have not brought it from a checkpoint, once for
        all adapters of one kind, and alike on all processes."""
        known: dict[Any, int] = {}
        for index, run in enumerate(self._runs):
            if run.settings.max_tokens != "auto" or run.max_tokens is not None or run.ended:
                continue
            adapter = run.trainable.initial
            key = batching_key(adapter), adapter.task.type
            if key not in known:
                known[key] = self._least_of_processes(self._most_tokens(index))
            run.max_tokens = known[key]
            self._log(f"{run.label}: max_tokens: auto is {run.max_tokens} tokens at a time")

    def check_repeatable(self, batches: Mapping[int, Sequence[MicroBatch]]) -> None:
        """Checks that the processes can take once more a step that did not fit into memory.

        Args:
            batches: Index of the run to the micro-batches of its step.

        Raises:
            AdapterkitError: They cannot: rows are compared over processes in the middle of the
                step, where the others wait.
        """
        process, n_processes = self._accelerator.process_index, self._accelerator.num_processes
        tasks = [self._runs[index].trainable.initial.task for index in batches]
        if n_processes > 1 and any(task.whole_batch for task in tasks):
            tokens = sum(micro_batch.n_tokens for micro_batch in _largest(batches).values())
            raise AdapterkitError(
                f"{self._labels(batches)}: process {process} has too little memory for {tokens} "
                "tokens at a time; set training.max_tokens below that, and go on with --resume"
            )

    def lower(self, batches: Mapping[int, Sequence[MicroBatch]], *, failed: bool) -> None:
        """Halves the budgets of runs whose forward did not fit into memory; a run whose batch
        cannot be cut further has a fault then. All processes must call it.

        Args:
            batches: Index of the run to the micro-batches of its step.
            failed: Whether it was the memory of this process.
        """
        largest = _largest(batches)
        own = sum(micro_batch.n_tokens for micro_batch in largest.values())
        tokens = self._least_of_processes(own if failed else MOST_TOKENS)
        names = self._labels(batches)
        if len(batches) == 1:
            ((index, micro_batch),) = largest.items()
            run = self._runs[index]
            uncut = run.trainable.initial.task.whole_batch and run.settings.adversarial
            can_cut = not uncut and len(micro_batch.examples) > 1
            if not self._least_of_processes(int(can_cut or not failed)):
                run.fault = (
                    f"there is too little memory for {'a batch' if uncut else 'one row'} of "
                    f"{tokens} tokens; shorten the texts (task.max_length), set "
                    "training.gradient_checkpointing: true, or use less memory for other things"
                )
                return
        for index in batches:
            self._runs[index].max_tokens = max(1, tokens // 2)
        self._log(
            f"{names}: too little memory for {tokens} tokens at a time, so at most {tokens // 2} "
            "from now on (training.max_tokens)"
        )

    def _most_tokens(self, index: int) -> int:
        """The most tokens of a forward of one run by the memory of a token, found by trials."""
        try:
            use = self._memory_use(index, self._runs[index].batches.longest())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return TRIAL_TOKENS  # the first step will find how many fit
        available = available_memory(self._device)
        if available is None:
            return STEP_TOKENS
        cache = self._trainables.state_cache
        reserved = cache.max_bytes - cache.n_bytes if cache is not None else 0
        on_gpu, n_processes = self._device.type != "cpu", self._accelerator.num_processes
        sharing = 1 if on_gpu else int(os.environ.get("LOCAL_WORLD_SIZE", n_processes))
        tokens = use.most_tokens(SHARE * (available / sharing - reserved))
        return tokens if on_gpu else min(tokens, STEP_TOKENS)

    def _least_of_processes(self, value: int) -> int:
        if self._accelerator.num_processes == 1:
            return value
        self._trainables.backbone.settle()
        gathered: Tensor = self._accelerator.gather(torch.tensor([value], device=self._device))
        return int(min(gathered.tolist()))

    def _labels(self, indices: Iterable[int]) -> str:
        return ", ".join(self._runs[index].label for index in indices)

    def _log(self, message: str) -> None:
        if self._accelerator.is_main_process:
            log.info(message)

    def _memory_use(self, index: int, longest: MicroBatch) -> MemoryUse:
        sizes = [sum(map(len, example.inputs)) for example in longest.examples]
        few = next((n for n in range(1, len(sizes)) if sum(sizes[:n]) >= TRIAL_TOKENS), len(sizes))
        self._peak(index, longest.select(range(1)))  # what is made once, such as prepacked weights
        small = self._peak(index, longest.select(range(few)))
        more = sum(sizes[few : 2 * few])
        if not more:
            return MemoryUse(0.0, small / sum(sizes[:few]))
        large = self._peak(index, longest.select(range(min(2 * few, len(sizes)))))
        per_token = max(1.0, (large - small) / more)
        return MemoryUse(max(0.0, small - per_token * sum(sizes[:few])), per_token)

    def _peak(self, index: int, micro_batch: MicroBatch) -> int:
        """Bytes of the forward and backward of a micro-batch."""
        allocation = PeakAllocation()
        with _nothing_changed(self._trainables, self._device), allocation:
            with self._accelerator.autocast():
                loss = self._trainables({index: micro_batch}).sum()
            loss.backward()
        return allocation.peak


def _largest(batches: Mapping[int, Sequence[MicroBatch]]) -> dict[int, MicroBatch]:
    """Index of the run to the largest of its micro-batches."""
    return {i: max(batch, key=lambda piece: piece.n_tokens) for i, batch in batches.items()}


@contextmanager
def _nothing_changed(trainables: TrainableAdapters, device: torch.device) -> Iterator[None]:
    """Leaves gradients, cached states and torch's generator as they are. Without its cache, a
    forward computes every layer of every row."""
    cache, trainables.state_cache = trainables.state_cache, None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        trainables.state_cache = cache
        trainables.zero_grad()
