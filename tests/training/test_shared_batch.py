"""Rows that are compared with each other have the losses of one batch, whoever computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from adapterkit.backbone.packing import TokenSequence
from adapterkit.inference.labelled import Split
from adapterkit.tasks.base import tasks
from adapterkit.tasks.embedding import Texts
from adapterkit.tasks.types import Example, Outputs
from adapterkit.training import shared_batch
from adapterkit.training.shared_batch import SharedBatch


@pytest.mark.parametrize(("n_rows", "n_processes"), [(7, 2), (8, 3), (2, 3)])
def test_losses_and_gradients_are_those_of_one_process(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, n_processes: int
) -> None:
    """The text of every third row is read in two windows, so that processes have other sizes."""
    task: Any = tasks()["embedding"]
    embedding = task(pooling="mean", symmetric=True)
    sizes = [(1 + (row % 3 == 0), 1, 1) for row in range(n_rows)]
    texts = [Texts((f"t{row % 5}", f"a{row}", f"n{row}"), size) for row, size in enumerate(sizes)]
    rows = Split([Example((TokenSequence([7], [0]),) * sum(size)) for size in sizes], texts)
    counts = [(1,) * sum(size) for size in sizes]
    vectors = torch.randn(sum(map(sum, sizes)), 5, requires_grad=True)
    by_row = vectors.split(list(map(sum, sizes)))
    expected = embedding.loss(Outputs(vectors, tuple(counts)), texts)
    (gradient,) = torch.autograd.grad(expected.sum(), vectors, retain_graph=True)

    computed = [list(range(p, n_rows, n_processes)) or [0] for p in range(n_processes)]
    logits = [torch.cat([by_row[row] for row in own]) for own in computed]
    room = max(map(len, logits))

    def gather(own: Tensor) -> list[Tensor]:
        assert len(own) == room
        return [pad(part, (0, 0, 0, room - len(part))) for part in logits]

    def gather_counts(found: list[Any], own: Any) -> None:
        found[:] = [(tuple(rows), tuple(counts[row] for row in rows)) for rows in computed]
        assert own in found

    monkeypatch.setattr(shared_batch, "get_world_size", lambda: n_processes)
    monkeypatch.setattr(shared_batch, "all_gather", gather)
    monkeypatch.setattr(shared_batch, "all_gather_object", gather_counts)
    total = torch.zeros(())
    for process, own in enumerate(computed):
        outputs = Outputs(logits[process], tuple(counts[row] for row in own))
        losses = SharedBatch(rows, tuple(own)).losses(embedding, outputs)
        torch.testing.assert_close(losses, expected[own])
        if process < n_rows:
            total = total + losses.sum()
    torch.testing.assert_close(torch.autograd.grad(total, vectors)[0], gradient)
