"""What the guests with one merged model share: padded batches, and the loop of the benchmark."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

CUTS = (1, 2, 4, 8)
"""Numbers of batches to try."""

Feeds = dict[str, Any]
Run = Callable[[Feeds], Any]


class Hidden(torch.nn.Module):
    """A model as a function from token ids and mask to the last hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return output


def batches_of(rows: list[list[int]], cuts: int) -> list[Feeds]:
    """The rows as padded batches of similar length, `{"ids": [n, t], "mask": [n, t]}` each.

    Args:
        rows: Token ids of each row.
        cuts: Number of batches.
    """
    rows = sorted(rows, key=len)
    size = -(-len(rows) // cuts)
    batches = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        ids = np.zeros((len(part), len(part[-1])), np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(part):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        batches.append({"ids": ids, "mask": mask})
    return batches


def fastest(run: Run, rows: list[list[int]]) -> Callable[[], Any]:
    """A function that computes all rows, in the number of batches that is the fastest."""

    def compute(batches: list[Feeds]) -> list[Any]:
        return [run(batch) for batch in batches]

    def seconds(batches: list[Feeds]) -> float:
        taken = []
        for _ in range(4):  # the first warms up
            began = time.perf_counter()
            compute(batches)
            taken.append(time.perf_counter() - began)
        return min(taken[1:])

    best = min((batches_of(rows, cuts) for cuts in CUTS), key=seconds)
    return lambda: compute(best)


def serve(
    name: str,
    runs_of: Callable[[Hidden, Path, dict[str, Any]], Mapping[str, Run]],
    attention: str,
) -> None:
    """Runs the job that is read from standard input.

    Args:
        name: Name and version of the runtime.
        runs_of: From the model, a temporary folder and the job to the function that computes a
            batch, by the name of its precision.
        attention: transformers' implementation of attention that the runtime reads best.
    """
    # What libraries print must not mix with the answers, also by a stream that they opened before.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    model = AutoModel.from_pretrained(job["model"], attn_implementation=attention).eval()
    with tempfile.TemporaryDirectory() as folder:
        found = runs_of(Hidden(model), Path(folder), job)
        runs = [fastest(run, job["rows"]) for run in found.values()]
    send([[name, f"one merged model, {precision}", 0] for precision in found])
    for line in sys.stdin:
        runs[json.loads(line)]()
        send("done")
