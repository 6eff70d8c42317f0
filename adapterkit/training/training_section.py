"""The section `training` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..adapter.adapter import MOST_MEMBERS
from ..schema import check_least
from .trackers import check_trackers


@dataclass(frozen=True)
class CheckpointSection:
    """When a training saves its state, to go on after an interruption.

    Attributes:
        minutes: Minutes between two checkpoints; 0 writes one only when a signal ends the training.
        steps: Optimiser steps between two checkpoints, beside the minutes.
    """

    minutes: float = 10.0
    steps: int | None = None

    def __post_init__(self) -> None:
        check_least(self, 0, "minutes")
        check_least(self, 1, "steps")


@dataclass(frozen=True)
class Training:
    """How the adapter is trained.

    Attributes:
        epochs: Passes over the training rows; if omitted, as many as take 200 optimiser steps, but
            at least 3 and at most 24.
        batch_size: Rows in one optimiser step, over all processes.
        learning_rate: Peak learning rate of the adapter; if omitted, the method's default.
        head_learning_rate: Peak learning rate of the head; if omitted, the method's default.
        schedule: linear or cosine decay to zero, or constant.
        warmup: Share of the steps in which the learning rate rises from zero.
        weight_decay: AdamW's, on matrices.
        clip: Largest L2 norm of the gradient; 0 does not clip.
        adversarial: Against overfitting: every step also learns from its rows with their word
            embeddings moved to where the loss grows fastest (fast gradient method), each sequence
            by so large an L2 norm, such as 1.0; a step takes twice as long. 0 is off.
        accumulation: Pieces one batch is computed in, to save memory; the result is the same.
        max_tokens: Most tokens computed at a time, to save memory: a batch with more is computed
            in pieces, and the result is the same. auto: as many as fit into the free memory.
        gradient_checkpointing: Keep only the input of each layer for the backward pass, and compute
            the rest again: less memory, a third more work, and the same result to the last bit.
        mixed_precision: no, bf16 or fp16: dtype of products while training, by Accelerate. fp16 is
            for a GPU and does nothing on a CPU.
        seed: Fixes initial tensors, order of rows, dropout and the drawn split.
        keep_best: Keep the epoch with the best main validation metric, and not the last one.
        patience: Stop after so many epochs without a better one by the validation rows; if omitted,
            never.
        start_from: A saved adapter (folder, or name in the store) or a PEFT folder to go on from,
            of the same method and settings. If it was trained for another task or other labels,
            the head is a new one.
        cache_mb: Most megabytes of what the layers below the adapter's first make of the training
            rows, kept from epoch to epoch; texts beyond that are computed anew. 0 keeps none.
        on_top_of: A saved adapter (folder, or name in the store), such as one trained on texts of
            the domain, that is applied first and stays as it is; answering needs it too.
        ensemble: Members trained side by side from the seeds seed, seed + 1, ... on the same
            splits, kept as one adapter; every text is asked of all of them, in one batch, and
            their raw scores are averaged.
        checkpoint: When the state is saved in the store, for --resume: every so many minutes (0:
            only when a signal ends the training) or steps, as {minutes: 10} or {steps: 500}.
        timeout: Seconds that one of several processes waits for another before all end.
        log_steps: Optimiser steps between two lines of the log, which has a line for every epoch
            as well.
        trackers: Programs that the log is sent to: tensorboard, wandb, mlflow, trackio.
        project: Project of the run in wandb and trackio, its experiment in mlflow.
    """

    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    adversarial: float = 0.0
    accumulation: int = 1
    max_tokens: int | Literal["auto"] | None = None
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    keep_best: bool = True
    patience: int | None = None
    start_from: str | None = None
    cache_mb: int = 1024
    on_top_of: str | None = None
    ensemble: int = 1
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    timeout: int = 120
    log_steps: int = 10
    trackers: tuple[str, ...] = ()
    project: str = "adapterkit"

    def __post_init__(self) -> None:
        check_least(self, 1, "epochs", "batch_size", "accumulation", "patience", "timeout")
        if self.max_tokens != "auto":
            check_least(self, 1, "max_tokens")
        check_least(self, 1, "log_steps")
        check_trackers(self.trackers)
        check_least(self, 0, "weight_decay", "clip", "adversarial", "cache_mb")
        for name in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0.0 < rate < 10.0:
                raise ValueError(f"{name}: expected more than 0 and less than 10, got {rate}")
        if self.accumulation > self.batch_size:
            raise ValueError(
                f"accumulation: a batch of {self.batch_size} rows cannot be computed in "
                f"{self.accumulation} pieces; give at most training.batch_size"
            )
        if not 1 <= self.ensemble <= MOST_MEMBERS:
            raise ValueError(f"ensemble: expected from 1 to {MOST_MEMBERS}, got {self.ensemble}")
        if not 0 <= self.seed <= 2**32 - self.ensemble:
            raise ValueError(
                f"seed: expected a number from 0 to 2**32 - {self.ensemble}, got {self.seed}"
            )
        if not 0.0 <= self.warmup <= 1.0:
            raise ValueError(f"warmup: expected a share from 0 to 1, got {self.warmup}")
