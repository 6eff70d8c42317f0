"""The training loop: epochs, steps and checks of one run, on one process or many."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from .adapter import Adapter
from .backbone import Backbone
from .errors import DataError
from .forward import forward
from .ops import Noise
from .predict import run
from .recipe import Training
from .task import Example, Outputs

CURVE_POINTS = 200


@dataclass(frozen=True)
class Split:
    """Rows made ready for training."""

    examples: list[Example]
    targets: list[Any]

    def __len__(self) -> int:
        return len(self.examples)


class Trainee(nn.Module):
    """The adapter under training as a module, so that Accelerate sees its parameters alone.

    The backbone is not a sub-module: it is frozen, shared and not wrapped by anything.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter) -> None:
        super().__init__()
        self._shared = (backbone, adapter)
        self.tensors = nn.ParameterDict({_flat(k): v.clone() for k, v in adapter.tensors.items()})
        self.head = nn.ParameterDict({_flat(k): v.clone() for k, v in adapter.head.items()})

    @property
    def adapter(self) -> Adapter:
        """The adapter as it stands; its tensors are the parameters themselves."""
        _, adapter = self._shared
        return replace(
            adapter,
            tensors={name: self.tensors[_flat(name)] for name in adapter.tensors},
            head={name: self.head[_flat(name)] for name in adapter.head},
        )

    def forward(self, batch: Portion) -> Tensor:
        """Sum of the weighted losses of a piece of a batch."""
        backbone, _ = self._shared
        adapter = self.adapter

        def noise(order: tuple[int, ...]) -> Noise:
            places = [batch.places[i] for i in order]
            return Noise(batch.seed, batch.lengths, places, backbone.device)

        rows = [(adapter, inputs) for example in batch.examples for inputs in example.inputs]
        (piece,) = forward(backbone, rows, noise)
        counts = iter(piece.counts)
        by_row = tuple(tuple(next(counts) for _ in row.inputs) for row in batch.examples)
        losses = adapter.task.loss(Outputs(piece.values, by_row), batch.targets)
        return (losses * torch.tensor(batch.weights, device=losses.device)).sum()


@dataclass(frozen=True)
class Portion:
    """What one process computes of one batch at a time.

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


def scores(
    accelerator: Accelerator, backbone: Backbone, adapter: Adapter, split: Split
) -> dict[str, float]:
    """Loss and metrics of a split, every row computed once by one of the processes."""
    mine = range(accelerator.process_index, len(split), accelerator.num_processes)
    with accelerator.autocast():
        said = run(backbone, [(adapter, split.examples[row]) for row in mine])
    found = list(zip(mine, said, strict=True))
    if accelerator.num_processes > 1:
        found = gather_object(found)
    outputs = Outputs.of([lines for _, lines in sorted(found, key=lambda pair: pair[0])])
    loss = float(adapter.task.loss(outputs, split.targets).mean())
    return {"loss": loss, **adapter.task.metrics(outputs, split.examples, split.targets)}


class Loop:
    """Epochs, steps and checks of one run.

    Args:
        accelerator: Accelerate's.
        trainee: What is trained.
        adapter: What the trainee began as.
        splits: Rows of `train` and, where there are any, `validation`.
        settings: The recipe's.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trainee: Trainee,
        adapter: Adapter,
        splits: Mapping[str, Split],
        settings: Training,
    ) -> None:
        self.accelerator = accelerator
        self.trainee = trainee
        self.backbone, _ = trainee._shared
        self.metric = adapter.task.main_metric
        self.rows, self.validation = splits["train"], splits.get("validation")
        self.settings = settings
        self.steps_an_epoch = math.ceil(len(self.rows) / settings.batch_size)
        optimizer = torch.optim.AdamW(parameter_groups(trainee, adapter, settings))
        # Not prepared by Accelerate, which would take one step of it for every process.
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, rate_at(settings, self.steps_an_epoch * settings.epochs)
        )
        self.module, self.optimizer = accelerator.prepare(trainee, optimizer)
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.kept = (0, adapter)

    def run(self, progress: bool) -> Adapter:
        """Trains to the end, or until patience runs out; returns the epoch to keep."""
        total = self.steps_an_epoch * self.settings.epochs
        with tqdm(total=total, unit="step", disable=None if progress else True) as bar:
            for epoch in range(1, self.settings.epochs + 1):
                self._epoch(epoch, bar)
                if self._check(epoch):
                    break
        return self.kept[1]

    def record(self) -> dict[str, Any]:
        """What the card keeps of the run; the loss curve is thinned to a few hundred points."""
        width = math.ceil(len(self.losses) / CURVE_POINTS)
        thinned = [
            (first + len(part), round(sum(part) / len(part), 6))
            for first in range(0, len(self.losses), width)
            if (part := self.losses[first : first + width])
        ]
        return {"epoch": self.kept[0], "history": self.history, "losses": thinned}

    def _epoch(self, epoch: int, bar: Any) -> None:
        order = list(range(len(self.rows)))
        random.Random(f"{self.settings.seed} {epoch}").shuffle(order)
        for first in range(0, len(order), self.settings.batch_size):
            loss = self._step(order[first : first + self.settings.batch_size])
            self.losses.append(loss)
            bar.set_description(f"epoch {epoch}/{self.settings.epochs}", refresh=False)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()

    def _step(self, batch: list[int]) -> float:
        pieces = list(self._pieces(batch))
        total = torch.zeros((), device=self.backbone.device)
        for number, piece in enumerate(pieces, start=1):
            last = number == len(pieces)
            with nullcontext() if last else self.accelerator.no_sync(self.module):
                with self.accelerator.autocast():
                    loss = self.module(piece)
                # Processes average their gradients; the weights already sum to 1 over all of them.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
        if self.settings.clip:
            self.accelerator.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        whole = float(self.accelerator.reduce(total, "sum"))
        if not math.isfinite(whole):
            raise DataError(
                f"the training loss became {whole} at step {len(self.losses) + 1}; "
                "lower training.learning_rate or use another precision"
            )
        return whole

    def _pieces(self, batch: list[int]) -> Iterator[Portion]:
        """This process's pieces of a batch; where it has no row it computes one without weight,
        because every process must take part in every step."""
        sizes = [[len(inputs) for inputs in self.rows.examples[row].inputs] for row in batch]
        lengths = [size for row in sizes for size in row]
        starts = (0, *accumulate(len(row) for row in sizes))
        mine = range(self.accelerator.process_index, len(batch), self.accelerator.num_processes)
        for number in range(self.settings.accumulation):
            rows = list(mine[number :: self.settings.accumulation])
            weights = [1.0 / len(batch)] * len(rows)
            if not rows:
                rows, weights = [0], [0.0]
            yield Portion(
                examples=[self.rows.examples[batch[row]] for row in rows],
                targets=[self.rows.targets[batch[row]] for row in rows],
                weights=weights,
                places=[place for row in rows for place in range(starts[row], starts[row + 1])],
                lengths=lengths,
                seed=self.settings.seed * 1_000_003 + len(self.losses),
            )

    def _check(self, epoch: int) -> bool:
        """Evaluates, keeps the best epoch so far, and says whether patience has run out."""
        step = self.steps_an_epoch * epoch
        recent = self.losses[-self.steps_an_epoch :]
        entry: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "train_loss": round(sum(recent) / len(recent), 6),
            "learning_rate": self.schedule.get_last_lr()[0],
        }
        adapter = self.trainee.adapter
        if self.validation is not None:
            entry["validation"] = scores(self.accelerator, self.backbone, adapter, self.validation)
        self.history.append(entry)
        better = not self.settings.keep_best or self.validation is None or self._is_best()
        if better:
            self.kept = (epoch, _detached(adapter))
        if self.accelerator.is_main_process:
            checked = entry.get("validation", {})
            told = ", ".join(f"{name} {value:.4f}" for name, value in checked.items())
            tqdm.write(
                f"epoch {epoch}: training loss {entry['train_loss']:.4f}"
                + (f"; validation {told}" if told else ""),
                file=sys.stderr,
            )
        patience = self.settings.patience
        return patience is not None and epoch - self.kept[0] >= patience

    def _is_best(self) -> bool:
        """Whether the last entry has the best main metric, a lower loss deciding between equals."""

        def worth(entry: dict[str, Any]) -> tuple[float, float]:
            return entry["validation"][self.metric], -entry["validation"]["loss"]

        return all(worth(self.history[-1]) > worth(entry) for entry in self.history[:-1])


def parameter_groups(
    trainee: Trainee, adapter: Adapter, settings: Training
) -> list[dict[str, Any]]:
    """AdamW's groups: adapter and head have their own rates, biases are not decayed."""
    rate = settings.learning_rate or adapter.method.learning_rate
    head_rate = settings.head_learning_rate or adapter.method.head_learning_rate
    groups = []
    for parameters, peak in ((trainee.tensors, rate), (trainee.head, head_rate)):
        for decayed in (True, False):
            chosen = [p for name, p in parameters.items() if name.endswith("bias") != decayed]
            decay = settings.weight_decay if decayed else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": peak, "weight_decay": decay})
    return groups


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


def _detached(adapter: Adapter) -> Adapter:
    def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    return replace(adapter, tensors=copied(adapter.tensors), head=copied(adapter.head))


def _flat(name: str) -> str:
    """ParameterDict keys may not hold dots."""
    return name.replace(".", "__")
