"""Adapters of every task with random weights, and requests to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from adapterkit.inference.forward import text_limit
from adapterkit.tasks.types import Example
from adapterkit.training.initial_adapter import fresh_adapter
from helpers.task_rows import task_recipe, task_rows


def random_task_adapter(backbone: Backbone, kind: str, folder: Path, **task: Any) -> Adapter:
    """An adapter of a task, every tensor random and large enough to change answers."""
    recipe = task_recipe(kind, folder, **task)
    rows = recipe.data.load(folder, 0, recipe.task)["train"]
    adapter, generator = fresh_adapter(recipe, backbone, rows), torch.Generator().manual_seed(1)

    def drawn(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: torch.randn(t.shape, generator=generator) * 0.3 for k, t in tensors.items()}

    head = drawn(adapter.head)
    labels = getattr(adapter.task, "labels", None) or ()
    if "O" in labels:  # an answer without entities has nothing to explain
        head["classifier.bias"][labels.index("O")] -= 3.0
    return replace(adapter, tensors=drawn(adapter.tensors), head=head)


def request_row(adapter: Adapter, index: int = 3, times: int = 1) -> dict[str, Any]:
    """The required columns of row `index` of the task; text, context or tokens repeated."""
    row = task_rows(adapter.task.type)[index]
    fields = {role: row[role] for role in adapter.inputs.required}
    for role in {"text", "context"} & fields.keys():
        fields[role] = " ".join([fields[role]] * times)
    if "tokens" in fields:
        fields["tokens"] = fields["tokens"] * times
    return fields


def read_example(backbone: Backbone, adapter: Adapter, row: Mapping[str, Any]) -> Example:
    fields = adapter.task.fields(row, "row")
    limit = text_limit(backbone, adapter)
    (example,) = adapter.task.examples([fields], backbone.reader, limit)
    return example
