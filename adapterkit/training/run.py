"""One adapter's training run: its steps in order, its optimiser, and what came of it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from ..inference.labelled import Split
from .recipe import Training
from .trainable import Portion, Trainee

CURVE_POINTS = 200


class Run:
    """Epochs, steps and checks of one adapter, whoever else is trained beside it.

    Args:
        trainee: What is trained.
        splits: Rows of `train` and, where there are any, `validation`.
        settings: The recipe's, the seed its own.
        called: What messages call it; the adapter's name where left out.
        augmented: From numbers of training rows, an epoch and a seed to these rows; as they are
            where left out.

    Attributes:
        name: The adapter's, which members of one ensemble share.
        total: Steps to the end, unless patience runs out before.
        losses: Of every step so far.
        history: An entry for every epoch so far.
        kept: The epoch to keep so far, and the adapter as it was then.
        fault: Why the run stopped before its end; None where it did not.
    """

    def __init__(
        self,
        trainee: Trainee,
        splits: Mapping[str, Split],
        settings: Training,
        called: str | None = None,
        augmented: Callable[[Sequence[int], int, int], Split] | None = None,
    ) -> None:
        self.trainee = trainee
        self.called = called or trainee.start.name
        self.rows, self.validation = splits["train"], splits.get("validation")
        self.augmented = augmented
        self.settings = settings
        self.steps_an_epoch = math.ceil(len(self.rows) / settings.batch_size)
        self.total = self.steps_an_epoch * settings.epochs
        self.optimizer: Any = torch.optim.AdamW(parameter_groups(trainee, settings))
        # Not prepared by Accelerate, which would take one step of it for every process.
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, rate_at(settings, self.total)
        )
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.kept = (0, trainee.start)
        self.fault: str | None = None
        self._batches = self._plan()

    @property
    def name(self) -> str:
        return self.trainee.start.name

    @property
    def epoch(self) -> int:
        """The epoch of the last step, counted from 1."""
        return math.ceil(len(self.losses) / self.steps_an_epoch)

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was the last of its epoch."""
        return self.fault is None and len(self.losses) % self.steps_an_epoch == 0

    @property
    def ended(self) -> bool:
        """Whether there is no further step: all are done, patience ran out, or it stopped."""
        patience = self.settings.patience
        impatient = patience is not None and len(self.history) - self.kept[0] >= patience
        return self.fault is not None or len(self.losses) == self.total or impatient

    def step(self, process: int, processes: int) -> list[Portion]:
        """One process's pieces of the next batch.

        Where the process has no row of a piece it computes one without weight, because every
        process must take part in every step.
        """
        batch = next(self._batches)
        sizes = [[len(inputs) for inputs in example.inputs] for example in batch.examples]
        lengths = [size for row in sizes for size in row]
        starts = (0, *accumulate(len(row) for row in sizes))
        mine = range(process, len(batch), processes)
        pieces = []
        for number in range(self.settings.accumulation):
            rows = list(mine[number :: self.settings.accumulation])
            weights = [1.0 / len(batch)] * len(rows)
            if not rows:
                rows, weights = [0], [0.0]
            pieces.append(
                Portion(
                    examples=[batch.examples[row] for row in rows],
                    targets=[batch.targets[row] for row in rows],
                    weights=weights,
                    places=[place for row in rows for place in range(starts[row], starts[row + 1])],
                    lengths=lengths,
                    seed=self.settings.seed * 1_000_003 + len(self.losses),
                ).posed(self.trainee.start.task)
            )
        return pieces

    def stepped(self, loss: float) -> None:
        """Notes a step's loss; one that is no number ends the run."""
        self.losses.append(loss)
        if not math.isfinite(loss):
            self.fault = (
                f"the training loss became {loss} at step {len(self.losses)}; "
                "lower training.learning_rate or use another precision"
            )

    def checked(self, scores: Mapping[str, float] | None) -> None:
        """Notes an epoch, and keeps the adapter where it is the best so far.

        Args:
            scores: Of the validation rows; None where there are none.
        """
        recent = self.losses[-self.steps_an_epoch :]
        entry: dict[str, Any] = {
            "epoch": self.epoch,
            "step": len(self.losses),
            "train_loss": round(sum(recent) / len(recent), 6),
            "learning_rate": self.schedule.get_last_lr()[0],
        }
        if scores is not None:
            entry["validation"] = dict(scores)
        self.history.append(entry)
        if not self.settings.keep_best or scores is None or self._is_best():
            self.kept = (self.epoch, self.trainee.kept())

    def record(self) -> dict[str, Any]:
        """What the card keeps of the run; the loss curve is thinned to a few hundred points."""
        width = math.ceil(len(self.losses) / CURVE_POINTS)
        thinned = [
            (first + len(part), round(sum(part) / len(part), 6))
            for first in range(0, len(self.losses), width)
            if (part := self.losses[first : first + width])
        ]
        return {"epoch": self.kept[0], "history": self.history, "losses": thinned}

    def _plan(self) -> Iterator[Split]:
        """Every batch of every epoch."""
        for epoch in range(1, self.settings.epochs + 1):
            order = list(range(len(self.rows)))
            random.Random(f"{self.settings.seed} {epoch}").shuffle(order)
            for first in range(0, len(order), self.settings.batch_size):
                some = order[first : first + self.settings.batch_size]
                yield self._read(some, epoch)

    def _read(self, rows: Sequence[int], epoch: int) -> Split:
        if self.augmented is None:
            return self.rows.only(rows)
        return self.augmented(rows, epoch, self.settings.seed)

    def _is_best(self) -> bool:
        """Whether the last entry has the best main metric, a lower loss deciding between equals."""
        metric = self.trainee.start.task.main_metric

        def worth(entry: dict[str, Any]) -> tuple[float, float]:
            return entry["validation"][metric], -entry["validation"]["loss"]

        return all(worth(self.history[-1]) > worth(entry) for entry in self.history[:-1])


def parameter_groups(trainee: Trainee, settings: Training) -> list[dict[str, Any]]:
    """AdamW's groups: each part has its own rate; biases and the gains of norms are not decayed."""
    groups = []
    for parameters, peak in trainee.parts(settings):
        for decayed in (True, False):
            chosen = [p for name, p in parameters.items() if _decays(name) == decayed]
            decay = settings.weight_decay if decayed else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": peak, "weight_decay": decay})
    return groups


def _decays(name: str) -> bool:
    return not name.endswith("bias") and "norm" not in name.lower()


def rate_at(settings: Training, total: int) -> Any:
    """Share of the peak learning rate at a step, from 0."""
    warm = round(settings.warmup * total)

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        done = (step - warm) / max(1, total - warm)
        if settings.schedule == "linear":
            return max(0.0, 1.0 - done)
        if settings.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return 1.0

    return share
