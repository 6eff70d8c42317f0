"""AdamW over a trainable adapter: parameter groups and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .trainable import TrainableAdapter
from .training_section import Training

ENOUGH_STEPS = 200
EPOCHS = (3, 24)
"""Least and most epochs of a recipe that names none."""


def parameter_groups(trainable: TrainableAdapter, settings: Training) -> list[dict[str, Any]]:
    """The parameter groups of AdamW.

    Adapter, head and (in full fine-tuning) backbone have their own learning rates; biases and the
    gains of norms have no weight decay.
    """
    groups = []
    for parameters, learning_rate in trainable.parameters_by_rate(settings):
        for decays in (True, False):
            chosen = [p for name, p in parameters.items() if _has_decay(name) == decays]
            decay = settings.weight_decay if decays else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": learning_rate, "weight_decay": decay})
    return groups


def _has_decay(name: str) -> bool:
    return not name.endswith("bias") and "norm" not in name.lower()


def default_epochs(steps_per_epoch: int) -> int:
    """Epochs of a recipe that names none: as many as take `ENOUGH_STEPS`, within `EPOCHS`.

    A fixed number would take a handful of steps on a small set and learn nothing from it.

    Args:
        steps_per_epoch: Optimiser steps in one pass over the training rows.
    """
    least, most = EPOCHS
    return min(most, max(least, math.ceil(ENOUGH_STEPS / steps_per_epoch)))


def schedule_factor(settings: Training, n_steps: int) -> Callable[[int], float]:
    """The learning rate schedule.

    Args:
        settings: Schedule and warmup.
        n_steps: Steps of the whole training.

    Returns:
        From a step, counted from 0, to the factor of the peak learning rate.
    """
    warmup = round(settings.warmup * n_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, n_steps - warmup)
        if settings.schedule == "linear":
            return max(0.0, 1.0 - progress)
        if settings.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return 1.0

    return factor
