"""One adapter's training run: its batches, its optimiser, and all that must be saved to go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import AdapterkitError
from ..inference.labelled import Split
from .batches import Batches, MicroBatch
from .optimizer import default_epochs, parameter_groups, schedule_factor
from .trainable import TrainableAdapter
from .training_section import Training

CURVE_POINTS = 200


@dataclass(frozen=True)
class Best:
    """The epoch whose parameters a run keeps.

    Attributes:
        epoch: Counted from 1.
        tensors: The parameters after that epoch, as `TrainableAdapter.snapshot` gives them.
    """

    epoch: int
    tensors: Mapping[str, Tensor]


class Run:
    """The training of one adapter, whatever else is trained beside it.

    Args:
        trainable: The adapter under training.
        splits: Rows of `train` and, if there are any, of `validation`.
        settings: The training section of the recipe, with this run's own seed.
        label: Name of the run in messages; if omitted, the adapter's name.
        augmented: As `Batches` takes it.

    Attributes:
        epochs: Passes over the training rows.
        n_steps: Optimiser steps of the whole training.
        optimizer: AdamW; the loop wraps it by Accelerate.
        schedule: The schedule of its learning rates.
        losses: Training loss of every step so far.
        history: One entry for every epoch so far, of plain data; callbacks write it.
        best: The epoch to keep so far; callbacks set it.
        log: Its log so far: entries of plain data, with `step`; a callback writes it.
        log_file: The file that the log is written to, a JSON object a line; None if there is none.
        callback_state: Plain data and tensors that a callback wants saved with the run, by the
            callback's `type`.
        max_tokens: Most tokens of its rows in one forward; None for any number, and as long as
            `auto` is not decided.
        fault: Why the run failed; None if it did not.
    """

    def __init__(
        self,
        trainable: TrainableAdapter,
        splits: Mapping[str, Split],
        settings: Training,
        label: str | None = None,
        augmented: Callable[[Sequence[int], int, int], Split] | None = None,
    ) -> None:
        self.trainable = trainable
        self.settings = settings
        self.label = label or trainable.initial.name
        self.validation = splits.get("validation")
        self.batches = Batches(splits["train"], settings, trainable.initial.task, augmented)
        self.epochs = settings.epochs or default_epochs(self.batches.steps_per_epoch)
        self.n_steps = self.batches.steps_per_epoch * self.epochs
        self.optimizer: Any = torch.optim.AdamW(parameter_groups(trainable, settings))
        # Not wrapped by Accelerate, which would take one step of it for every process.
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, schedule_factor(settings, self.n_steps)
        )
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []
        self.best: Best | None = None
        self.log: list[dict[str, Any]] = []
        self.log_file: Path | None = None
        self.callback_state: dict[str, Any] = {}
        self.max_tokens = settings.max_tokens if settings.max_tokens != "auto" else None
        self.fault: str | None = None
        self._stopped = False
        self._epochs_ended = 0

    @property
    def name(self) -> str:
        """The adapter's name, which the members of one ensemble share."""
        return self.trainable.initial.name

    @property
    def cost(self) -> int:
        """An estimate of the work of all steps: the tokens that pass through the backbone."""
        return self.batches.n_tokens * self.epochs * (2 if self.settings.adversarial else 1)

    @property
    def epoch(self) -> int:
        """The epoch of the last step, counted from 1; 0 before the first step."""
        return math.ceil(len(self.losses) / self.batches.steps_per_epoch)

    @property
    def best_epoch(self) -> int:
        """The epoch with the best main metric on the validation rows so far, counted from 1. The
        lower loss decides a tie, and then the earlier epoch. Without such rows it is the last
        epoch."""
        scores = [entry["validation"] for entry in self.history if "validation" in entry]
        if len(scores) < len(self.history):
            return len(self.history)
        metric = self.trainable.initial.task.main_metric

        def rank(index: int) -> tuple[float, float, int]:
            # An epoch may leave them undefined, and another one not.
            found = scores[index]
            return found.get(metric, -math.inf), -found.get("loss", math.inf), -index

        return max(range(len(scores)), key=rank, default=-1) + 1

    @property
    def ended(self) -> bool:
        """Whether there is no further step."""
        return self.fault is not None or self._stopped or len(self.losses) == self.n_steps

    def stop(self) -> None:
        """Ends the run before its last step, without a fault if its parameters are finite."""
        self._stopped = True
        self._check_parameters()

    def mark_epoch_end(self) -> bool:
        """Marks the end of an epoch; the loop calls this after every step.

        Returns:
            Whether the last step has ended an epoch that was not marked before, without a fault.
        """
        complete = len(self.losses) // self.batches.steps_per_epoch
        if self.fault is not None or complete == self._epochs_ended:
            return False
        self._epochs_ended = complete
        self._check_parameters()
        return self.fault is None

    def next_micro_batches(self, process: int = 0, n_processes: int = 1) -> list[MicroBatch]:
        """The micro-batches of the next step; see `Batches.micro_batches`."""
        epoch, step = divmod(len(self.losses), self.batches.steps_per_epoch)
        return self.batches.micro_batches(epoch + 1, step, process, n_processes, self.max_tokens)

    def record_loss(self, loss: float) -> None:
        """Records the training loss of a step; one that is not finite ends the run with a fault."""
        self.losses.append(loss)
        if not math.isfinite(loss):
            self.fault = (
                f"the training loss became {loss} at step {len(self.losses)}; "
                "lower training.learning_rate or use another precision"
            )

    def _check_parameters(self) -> None:
        """A loss shows what the steps before it did, so the last step needs a check of its own."""
        if not all(bool(p.isfinite().all()) for p in self.trainable.parameters()):
            self.fault = (
                f"a parameter became infinite or NaN by step {len(self.losses)}; "
                "lower training.learning_rate or set training.clip above 0"
            )

    def summary(self) -> dict[str, Any]:
        """What the adapter's card keeps of the run: the epoch that was kept, the history, the
        losses, averaged to at most `CURVE_POINTS` points of (step, loss), and the budget of tokens
        if there was one."""
        width = math.ceil(len(self.losses) / CURVE_POINTS)
        points = [
            (first + len(part), round(sum(part) / len(part), 6))
            for first in range(0, len(self.losses), width)
            if (part := self.losses[first : first + width])
        ]
        epoch = self.best.epoch if self.best is not None else 0
        budget = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {"epoch": epoch, "history": self.history, "losses": points, **budget}

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the rest of the run depends on beside recipe, rows and backbone.

        Batches and dropout follow from the seed and the step, so no generator is part of it. In
        full fine-tuning the backbone's own dropout, which draws from torch's generator, is not, nor
        is the gradient scale of fp16, which belongs to Accelerate.

        Returns:
            Nested dicts (of string keys) and lists of plain data and tensors.
        """
        optimizer = self.optimizer.state_dict()
        moments = {str(index): state for index, state in optimizer["state"].items()}
        best = self.best and {"epoch": self.best.epoch, "tensors": dict(self.best.tensors)}
        state = {
            "seed": self.settings.seed,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "step": len(self.losses),
            "epochs_ended": self._epochs_ended,
            "losses": self.losses,
            "history": self.history,
            "log": self.log,
            "stopped": self._stopped,
            "fault": self.fault,
            "max_tokens": {"recipe": self.settings.max_tokens, "used": self.max_tokens},
            "tensors": self.trainable.snapshot(),
            "best": best,
            "optimizer": {**optimizer, "state": moments},
            "schedule": self.schedule.state_dict(),
            "callbacks": self.callback_state,
        }
        return deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where another run of the same recipe was.

        Args:
            state: Its `state_dict`.

        Raises:
            AdapterkitError: The state is of another recipe or of other rows.
        """
        for key, own in (
            ("seed", self.settings.seed),
            ("steps_per_epoch", self.batches.steps_per_epoch),
        ):
            if state[key] != own:
                raise AdapterkitError(
                    f"{self.label}: the saved run has {key} {state[key]} and this one has {own}; "
                    "continue with the recipe and the rows that it began with"
                )
        state = deepcopy(dict(state))
        try:
            self.trainable.restore(state["tensors"])
        except ValueError as error:
            raise AdapterkitError(f"{self.label}: the saved run does not fit: {error}") from None
        moments = {int(index): value for index, value in state["optimizer"]["state"].items()}
        self.optimizer.load_state_dict({**state["optimizer"], "state": moments})
        self.schedule.load_state_dict(state["schedule"])
        self.losses, self.history = state["losses"], state["history"]
        self.log = state["log"]
        self.best = None if state["best"] is None else Best(**state["best"])
        self.callback_state = state["callbacks"]
        self.fault, self._stopped = state["fault"], state["stopped"]
        if state["max_tokens"]["recipe"] == self.settings.max_tokens:
            self.max_tokens = state["max_tokens"]["used"]
        self._epochs_ended = state["epochs_ended"]


def taken_steps(runs: Sequence[Run]) -> str:
    """How far runs are, for messages: `3 of 9 steps`."""
    return f"{sum(len(run.losses) for run in runs)} of {sum(run.n_steps for run in runs)} steps"
