"""A batch whose rows are compared with each other, though each process computes some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import all_gather_object, get_world_size
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import pad

from ..inference.labelled import Split
from ..tasks.base import Task
from ..tasks.types import Outputs


@dataclass(frozen=True)
class SharedBatch:
    """A whole batch and the processes that share it.

    Attributes:
        rows: All rows of the batch.
        computed: Indices of the rows that this process computes, in its order. A row may be
            computed by several processes.
    """

    rows: Split
    computed: tuple[int, ...]

    def losses(self, task: Task, outputs: Outputs) -> Tensor:
        """The losses of this process's rows, each within the whole batch.

        All processes must call this: the logits of each are gathered on all. In the backward pass
        a logit gets the sum of the gradients that all processes have for it, as if one process
        had computed the losses of all rows.

        Args:
            task: The task.
            outputs: The outputs for this process's rows.

        Returns:
            `[len(computed)]`.
        """
        parts: list[Any] = [None] * get_world_size()
        all_gather_object(parts, (self.computed, outputs.counts))
        logits = outputs.logits.float()
        room = max(sum(map(sum, counts)) for _, counts in parts)  # collectives need equal shapes
        gathered = all_gather(pad(logits, (0, 0, 0, room - len(logits))))
        found: dict[int, tuple[Tensor, tuple[int, ...]]] = {}
        for (numbers, counts), values in zip(parts, gathered, strict=True):
            sizes = [sum(row) for row in counts]
            by_row = zip(values[: sum(sizes)].split(sizes), counts, strict=True)
            found |= dict(zip(numbers, by_row, strict=True))
        vectors, all_counts = zip(*(found[row] for row in range(len(self.rows))), strict=True)
        losses = task.loss(Outputs(torch.cat(vectors), all_counts), self.rows.targets)
        return losses[list(self.computed)]
