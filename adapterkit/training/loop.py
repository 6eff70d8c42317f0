"""The training loop: the steps of one adapter or of many side by side, on one process or many."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from ..adapter.adapter import Adapter
from ..adapter.batching import batching_key
from ..backbone.model import Backbone
from ..inference.forward import by_budget
from ..inference.labelled import Split
from ..inference.lanes import SERIAL, WorkerLanes, lanes_of
from ..inference.pipeline import compute_outputs
from ..tasks.base import Task
from ..tasks.types import Outputs
from .adversarial import Attack
from .parallel_backward import backward, parted
from .run import Run
from .trainable import Portion, Trainees

STEP_TOKENS = 4096
"""Tokens of several adapters' batches in one forward: wide enough, and a gigabyte on minilm."""


class Loop:
    """Runs in step: each takes its own next batch, and one forward holds as many as the budget
    lets it. A run that has ended leaves the others to it.

    Args:
        accelerator: Accelerate's.
        trainees: What is trained.
        runs: The run of each.
        max_tokens: Most tokens of several runs in one forward; one run alone may have more.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trainees: Trainees,
        runs: Sequence[Run],
        max_tokens: int = STEP_TOKENS,
    ) -> None:
        self.accelerator = accelerator
        self.backbone = trainees.backbone
        self.runs = runs
        self.max_tokens = max_tokens
        self._trainees = trainees
        self._lanes = self._own_lanes()
        self._number = {id(run): number for number, run in enumerate(runs)}
        self.module, *prepared = accelerator.prepare(trainees, *(run.optimizer for run in runs))
        for run, optimizer in zip(runs, prepared, strict=True):
            run.optimizer = optimizer

    def _own_lanes(self) -> WorkerLanes:
        """The lanes of a step: one where processes share it, or where the backbone is trained too,
        whose gradients and dropout are drawn in one place."""
        trained = any(p.requires_grad for p in self.backbone.model.parameters())
        alone = trained or self.accelerator.num_processes > 1
        return SERIAL if alone else lanes_of(self.backbone.device)

    def run(self, progress: bool) -> None:
        """Takes every run to its end, perhaps with a bar and a line an epoch."""
        # Like methods stand together, so that their products are one block.
        running = sorted(self.runs, key=lambda run: batching_key(run.trainee.start))
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        total = sum(run.total for run in running)
        with tqdm(total=total, unit="step", disable=None if progress else True) as bar:
            while running:
                steps = [(run, run.step(process, processes)) for run in running]
                sizes = [max(piece.n_tokens for piece in pieces) for _, pieces in steps]
                for part in by_budget(sizes, self.max_tokens):
                    self._step(steps[part.start : part.stop])
                    self._show(bar, running[part.start : part.stop])
                checked = [run for run in running if run.epoch_ended]
                self._check(checked)
                if progress:
                    self._tell(checked)
                # An ensemble that has lost a member is lost.
                lost = {run.name for run in running if run.fault is not None}
                running = [run for run in running if not run.ended and run.name not in lost]

    def _step(self, steps: Sequence[tuple[Run, Sequence[Portion]]]) -> None:
        """One optimiser step of each of some runs."""
        self.module.train()
        totals = torch.zeros(len(steps), device=self.backbone.device)
        most = max(len(pieces) for _, pieces in steps)
        for turn in range(most):
            here = [place for place, (_, pieces) in enumerate(steps) if turn < len(pieces)]
            portions = {self._number[id(steps[at][0])]: steps[at][1][turn] for at in here}
            totals[here] += self._gradients(portions, last=turn == most - 1)
        whole = self.accelerator.reduce(totals, "sum").tolist()
        for (run, _), loss in zip(steps, whole, strict=True):
            if math.isfinite(loss):
                with self._lanes.single_threaded():
                    self._update(run)
            run.optimizer.zero_grad()
            run.stepped(loss)

    def _update(self, run: Run) -> None:
        if run.settings.clip:
            self.accelerator.clip_grad_norm_(run.trainee.parameters(), run.settings.clip)
        run.optimizer.step()
        run.schedule.step()

    def _gradients(self, portions: Mapping[int, Portion], last: bool) -> Tensor:
        """Adds the gradients of some runs' pieces to their parameters'.

        Args:
            portions: Number of the run to its piece.
            last: Whether the step ends with them.

        Returns:
            Losses of the rows as they are, `[n]`; no number where that of moved rows is none.
        """
        epsilons = {n: epsilon for n in portions if (epsilon := self.runs[n].settings.adversarial)}
        if not epsilons:
            return self._backward(portions, last)
        attacks = {n: Attack(portions[n], self.backbone) for n in epsilons}
        standing = {n: attack.standing() for n, attack in attacks.items()}
        with _same_again(self.backbone.device):
            losses = self._backward({**portions, **standing}, last=False)
        harmed = self._backward({n: a.moved(epsilons[n]) for n, a in attacks.items()}, last)
        at = [place for place, n in enumerate(portions) if n in attacks]
        losses[at] += torch.where(harmed.isfinite(), torch.zeros_like(harmed), harmed)
        return losses

    def _backward(self, portions: Mapping[int, Portion], last: bool) -> Tensor:
        """One forward and backward; processes exchange gradients in the last of a step."""
        whole = {n for n in portions if self.runs[n].trainee.start.task.whole_batch}
        parts = parted(portions, whole, self._lanes)
        if len(parts) > 1:
            told = backward(self._trainees, parts, self._lanes, self.accelerator.autocast)
            return torch.stack([told[n] for n in portions])
        with nullcontext() if last else self.accelerator.no_sync(self.module):
            with self.accelerator.autocast():
                losses: Tensor = self.module(portions)
            # Processes average their gradients; a run's weights sum to 1 over all of them.
            self.accelerator.backward(losses.sum() * self.accelerator.num_processes)
        return losses.detach()

    def _check(self, runs: Sequence[Run]) -> None:
        """Scores the validation rows of runs that have ended an epoch."""
        self.module.eval()
        asked = {
            place: (run.trainee.adapter, run.validation)
            for place, run in enumerate(runs)
            if run.validation is not None
        }
        said = outputs_of(self.accelerator, self.backbone, list(asked.values()))
        told = dict(zip(asked, said, strict=True))
        for place, run in enumerate(runs):
            if place in told:
                run.checked(scores_of(asked[place][0].task, asked[place][1], told[place]))
            else:
                run.checked(None)

    def _show(self, bar: Any, runs: Sequence[Run]) -> None:
        bar.set_description(f"epoch {runs[-1].epoch}/{runs[-1].settings.epochs}", refresh=False)
        loss = sum(run.losses[-1] for run in runs) / len(runs)
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update(len(runs))

    def _tell(self, runs: Sequence[Run]) -> None:
        for run in runs:
            entry = run.history[-1]
            whose = f"{run.called}, " if len(self.runs) > 1 else ""
            checked = entry.get("validation", {})
            told = ", ".join(f"{name} {value:.4f}" for name, value in checked.items())
            tqdm.write(
                f"{whose}epoch {entry['epoch']}: training loss {entry['train_loss']:.4f}"
                + (f"; validation {told}" if told else ""),
                file=sys.stderr,
            )


def _same_again(device: torch.device) -> Any:
    """What is drawn inside is drawn again after it: a backbone that is trained itself drops out by
    torch's own generator, and both passes of a step must drop the same."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def outputs_of(
    accelerator: Accelerator, backbone: Backbone, asked: Sequence[tuple[Adapter, Split]]
) -> list[Outputs]:
    """What some adapters say of their splits, every row computed by one of the processes."""
    rows = [(adapter, example) for adapter, split in asked for example in split.examples]
    mine = range(accelerator.process_index, len(rows), accelerator.num_processes)
    with accelerator.autocast():
        said = compute_outputs(backbone, [rows[row] for row in mine])
    found = list(zip(mine, said, strict=True))
    if accelerator.num_processes > 1:
        found = gather_object(found)
    lines = iter([line for _, line in sorted(found, key=lambda pair: pair[0])])
    return [Outputs.of([next(lines) for _ in split.examples]) for _, split in asked]


def scores_of(task: Task, split: Split, outputs: Outputs) -> dict[str, float]:
    """Loss and metrics of what was said of a split."""
    return {
        "loss": split.loss(task, outputs),
        **task.metrics(split.predictions(task, outputs)),
    }
