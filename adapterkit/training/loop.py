"""The training loop: the steps of one adapter or of many side by side, on one process or many."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from ..adapter.batching import batching_key
from ..backbone.malloc import return_freed_memory
from ..errors import TrainingInterruptedError, is_out_of_memory
from ..inference.forward import by_budget
from ..inference.lanes import SERIAL, WorkerLanes, lanes_of
from .adversarial import Attack
from .batches import MicroBatch
from .cached_gradients import with_output_gradients
from .callbacks.base import Callback, Event, in_order
from .gradient_exchange import GradientExchange
from .parallel_backward import backward, split_over_lanes
from .run import Run, taken_steps
from .token_budget import STEP_TOKENS, TokenBudgets
from .trainable import TrainableAdapters


@dataclass(frozen=True)
class LoopOptions:
    """Options of a training that are not part of a recipe.

    Attributes:
        callbacks: Callbacks beside the registered ones.
        progress: Show a progress bar, and a line for every epoch.
        max_tokens: Most tokens of several runs in one forward; one run alone may have more.
        is_apart: Whether other processes train other runs at the same time.
    """

    callbacks: Sequence[Callback] = ()
    progress: bool = True
    max_tokens: int = STEP_TOKENS
    is_apart: bool = False


class Loop:
    """Takes the steps of several runs at the same time.

    Each run takes its own next batch, and one forward holds as many of the batches as
    `max_tokens` allows. A run that has ended drops out, and the others go on.

    Args:
        accelerator: Accelerate's.
        trainables: The adapters under training.
        runs: The run of each, in the same order.
        options: Callbacks, progress and the size of a forward.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trainables: TrainableAdapters,
        runs: Sequence[Run],
        options: LoopOptions,
    ) -> None:
        self.accelerator = accelerator
        self.backbone = trainables.backbone
        self.runs = runs
        self.options = options
        self.callbacks = in_order(options.callbacks)
        self._trainables = trainables
        self._lanes = self._choose_lanes()
        self._budgets = TokenBudgets(accelerator, trainables, runs)
        self._exchange = GradientExchange(accelerator, self.backbone, trainables)
        for run in runs:
            run.optimizer = accelerator.prepare(run.optimizer)

    def run(self) -> None:
        """Takes every run to its end.

        Raises:
            TrainingInterruptedError: A signal has ended the training.
        """
        try:
            for callback in self.callbacks:
                callback.on_start(self._event(range(len(self.runs))))
            self._budgets.decide()
            # Adapters of one method stand together, so that they are computed in one block.
            active = sorted(
                range(len(self.runs)),
                key=lambda index: batching_key(self.runs[index].trainable.initial),
            )
            self._end_epochs(active)  # of runs that were saved after the last step of an epoch
            while active := self._not_ended(active):
                self._take_steps(active)
                self._end_epochs(active)
        except TrainingInterruptedError:
            raise
        except KeyboardInterrupt:  # no callback has received the signal
            text = f"Interrupted by SIGINT after {taken_steps(self.runs)}"
            raise TrainingInterruptedError(text, signal.SIGINT) from None
        finally:
            for callback in self.callbacks:
                callback.on_end(self._event(range(len(self.runs))))

    def _take_steps(self, active: Sequence[int]) -> None:
        """The next step of some runs.

        Callbacks are called when all have taken it: a state that is saved then is of one moment.
        """
        for indices in list(self._forwards(active)):
            for callback in self.callbacks:
                callback.on_step(self._event(indices))

    def _forwards(self, active: Sequence[int]) -> Iterator[Sequence[int]]:
        """Takes the next step of some runs, in as many forwards as fit into memory.

        Yields:
            The runs of each forward.
        """
        process, n_processes = self.accelerator.process_index, self.accelerator.num_processes
        batches = [self.runs[index].next_micro_batches(process, n_processes) for index in active]
        sizes = [max(micro_batch.n_tokens for micro_batch in batch) for batch in batches]
        for part in by_budget(sizes, self._budgets.least(active, self.options.max_tokens)):
            indices = active[part.start : part.stop]
            own = {active[index]: batches[index] for index in part}
            losses = self._gradients(own)
            summed = self._exchange.sum([self.runs[i].trainable for i in indices], losses)
            if summed is None:
                self._budgets.lower(own, failed=losses is None)
                yield from self._forwards(self._not_ended(indices))
            else:
                self._step(indices, summed)
                yield indices

    def _not_ended(self, indices: Sequence[int]) -> list[int]:
        """The runs that have a further step; an ensemble is lost with the first of its members."""
        lost = {run.name for run in self.runs if run.fault is not None}
        return [i for i in indices if not self.runs[i].ended and self.runs[i].name not in lost]

    def _end_epochs(self, indices: Sequence[int]) -> None:
        """Calls `on_epoch` with those runs that have just ended an epoch."""
        ended = [index for index in indices if self.runs[index].mark_epoch_end()]
        if ended:
            self._trainables.eval()
            for callback in self.callbacks:
                callback.on_epoch(self._event(ended))

    def _event(self, indices: Iterable[int]) -> Event:
        return Event(
            [self.runs[index] for index in indices],
            self.runs,
            self.backbone,
            self.accelerator,
            self.options.progress and self.accelerator.is_main_process,
            self.options.is_apart,
        )

    def _choose_lanes(self) -> WorkerLanes:
        """One lane if processes share a step, or if the backbone is trained too: it collects its
        gradients and draws its dropout in one place."""
        full = any(p.requires_grad for p in self.backbone.model.parameters())
        serial = full or self.accelerator.num_processes > 1
        return SERIAL if serial else lanes_of(self.backbone.device)

    def _gradients(self, batches: Mapping[int, Sequence[MicroBatch]]) -> Tensor | None:
        """Adds the gradients of a step to the parameters of some runs.

        Args:
            batches: Index of the run to the micro-batches of its step.

        Returns:
            The losses, `[n]`. None if there was too little memory: then there are no gradients.

        Raises:
            AdapterkitError: There was too little memory, and other processes wait in the middle of
                the step.
        """
        self._trainables.train()
        try:
            return self._sum_of_turns(batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self._budgets.check_repeatable(batches)
        # Only here, without the error, are the tensors freed that its traceback refers to.
        for index in batches:
            self.runs[index].optimizer.zero_grad()
        gc.collect()
        return_freed_memory()
        if self.backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _sum_of_turns(self, batches: Mapping[int, Sequence[MicroBatch]]) -> Tensor:
        """`_gradients` if there is enough memory."""
        whole: dict[int, Tensor] = {}
        for index, batch in batches.items():
            if self.runs[index].trainable.initial.task.whole_batch and self._is_cut(index, batch):
                pieces, whole[index] = with_output_gradients(
                    self._trainables, index, batch, self.accelerator.autocast
                )
                batches = {**batches, index: pieces}
        losses = torch.zeros(len(batches), device=self.backbone.device)
        n_turns = max(map(len, batches.values()))
        for turn in range(n_turns):
            micro_batches = {
                index: batch[turn] for index, batch in batches.items() if turn < len(batch)
            }
            rows = [row for row, index in enumerate(batches) if index in micro_batches]
            losses[rows] += self._add_gradients(micro_batches)
        for row, index in enumerate(batches):
            losses[row] = whole.get(index, losses[row])
        return losses

    def _is_cut(self, index: int, batch: Sequence[MicroBatch]) -> bool:
        """Whether a batch is computed in pieces; on several processes, whether one of them may be,
        since they take the same way."""
        if self.accelerator.num_processes == 1:
            return len(batch) > 1
        run = self.runs[index]
        return run.settings.accumulation > 1 or run.max_tokens is not None

    def _step(self, indices: Sequence[int], losses: Sequence[float]) -> None:
        """One optimiser step of each of some runs, whose gradients and losses are known."""
        for index, loss in zip(indices, losses, strict=True):
            run = self.runs[index]
            if math.isfinite(loss):
                with self._lanes.single_threaded():
                    self._update(run)
            run.optimizer.zero_grad()
            run.record_loss(loss)

    def _update(self, run: Run) -> None:
        if run.settings.clip:
            self.accelerator.clip_grad_norm_(run.trainable.parameters(), run.settings.clip)
        run.optimizer.step()
        run.schedule.step()

    def _add_gradients(self, micro_batches: Mapping[int, MicroBatch]) -> Tensor:
        """Adds the gradients of micro-batches to their parameters, also the adversarial ones.

        Args:
            micro_batches: Index of the run to its micro-batch.

        Returns:
            The losses without perturbation, `[n]`; not finite if the loss with it is not.
        """
        norms = {i: norm for i in micro_batches if (norm := self.runs[i].settings.adversarial)}
        if not norms:
            return self._backward(micro_batches)
        attacks = {i: Attack(micro_batches[i], self.backbone) for i in norms}
        clean = {i: attack.clean() for i, attack in attacks.items()}
        with _generator_restored(self.backbone.device):
            losses = self._backward({**micro_batches, **clean})
        perturbed = self._backward({i: a.perturbed(norms[i]) for i, a in attacks.items()})
        rows = [row for row, index in enumerate(micro_batches) if index in attacks]
        losses[rows] += torch.where(perturbed.isfinite(), torch.zeros_like(perturbed), perturbed)
        return losses

    def _backward(self, micro_batches: Mapping[int, MicroBatch]) -> Tensor:
        """One forward and backward.

        Returns:
            The losses, `[n]`, in the order of the micro-batches.
        """
        unsplit = {i for i in micro_batches if self.runs[i].trainable.initial.task.whole_batch}
        parts = split_over_lanes(micro_batches, unsplit, self._lanes)
        if len(parts) > 1:
            found = backward(self._trainables, parts, self._lanes, self.accelerator.autocast)
            return torch.stack([found[index] for index in micro_batches])
        with self.accelerator.autocast():
            losses: Tensor = self._trainables(micro_batches)
        self.accelerator.backward(losses.sum())
        return losses.detach()


def _generator_restored(device: torch.device) -> AbstractContextManager[None]:
    """Restores torch's generator afterwards: a backbone under training draws its dropout from it,
    and both passes of an adversarial step must drop the same elements."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices)
