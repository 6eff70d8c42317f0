"""Outputs and scores of adapters on labelled rows, computed by all processes together."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..inference.labelled import Split
from ..inference.pipeline import compute_outputs
from ..tasks.answer_distribution import AnswerDistribution
from ..tasks.base import Task
from ..tasks.types import Outputs


def split_outputs(
    accelerator: Accelerator, backbone: Backbone, pairs: Sequence[tuple[Adapter, Split]]
) -> list[Outputs]:
    """The outputs of adapters for the rows of their splits; each process computes a part of the
    rows, and all processes must call it.

    Args:
        accelerator: Accelerate's.
        backbone: The backbone.
        pairs: Adapters, each with its rows.

    Returns:
        The outputs of each pair, on every process.
    """
    rows = [(adapter, example) for adapter, split in pairs for example in split.examples]
    own = range(accelerator.process_index, len(rows), accelerator.num_processes)
    with accelerator.autocast():
        outputs = compute_outputs(backbone, [rows[index] for index in own])
    found = list(zip(own, outputs, strict=True))
    if accelerator.num_processes > 1:
        backbone.settle()
        found = gather_object(found)
    in_order = iter([output for _, output in sorted(found, key=lambda pair: pair[0])])
    return [Outputs.of([next(in_order) for _ in split.examples]) for _, split in pairs]


def score(task: Task, split: Split, outputs: Outputs) -> dict[str, float]:
    """The `loss` and the metrics of outputs for a split, without those that are not finite, which a
    card cannot hold."""
    loss = split.loss(task, outputs)
    metrics = task.metrics(split.predictions(task, outputs))
    return {"loss": loss, **metrics} if math.isfinite(loss) else metrics


def tune_and_score(
    adapter: Adapter, splits: Mapping[str, Split], outputs: Mapping[str, Outputs]
) -> Adapter:
    """A trained adapter with its thresholds, metrics and record of them.

    Args:
        adapter: The adapter.
        splits: Rows by name of the split.
        outputs: The adapter's outputs for some of the splits.

    Returns:
        The adapter with thresholds tuned on the validation rows, with the metrics of every split
        that has outputs, and in `training` with their `intervals` and the task's `report` of the
        last split.
    """
    task, metrics = adapter.task, {}
    record: dict[str, Any] = {"intervals": {}}
    if "validation" in outputs:
        validation = splits["validation"]
        task = task.tune(outputs["validation"], validation.examples, validation.targets)
    for name, found in outputs.items():
        predictions = splits[name].predictions(task, found)
        metrics[name] = score(task, splits[name], found)
        record["intervals"][name] = task.intervals(predictions)
        record["report"] = {"split": name, **task.report(predictions)}
    return replace(adapter, task=task, metrics=metrics, training={**adapter.training, **record})


ANSWERED_TRAINING_ROWS = 500
"""Most training rows whose answers are counted if there are no others."""


def training_rows(split: Split) -> Split:
    """Some training rows, drawn without regard to their order, whose answers are counted."""
    n = min(len(split), ANSWERED_TRAINING_ROWS)
    return split.select(random.Random(0).sample(range(len(split)), n))


def count_answers(adapter: Adapter, name: str, split: Split, outputs: Outputs) -> Adapter:
    """A trained adapter whose record has the distribution of its answers for a split as `answers`,
    with which later answers are compared.

    Args:
        adapter: The adapter.
        name: Name of the split.
        split: Its rows.
        outputs: The adapter's outputs for them.
    """
    answers = adapter.task.answers(outputs, split.examples)
    decisions = filter(None, map(adapter.task.decision, answers))
    record = {"split": name, **AnswerDistribution.of(decisions).plain()}
    return replace(adapter, training={**adapter.training, "answers": record})
