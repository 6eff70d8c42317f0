"""The vectors of every token of a text, before they are pooled and read by a head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..tasks.types import Answer, Example
from .forward import token_states
from .pipeline import compute_outputs, to_cpu


def compute_token_vectors(
    backbone: Backbone, rows: Sequence[tuple[Adapter | None, Example]]
) -> list[tuple[Tensor, ...]]:
    """Computes the states of the last layer, in batches of limited size.

    Args:
        backbone: The backbone.
        rows: Adapter (None for the plain backbone) and example of each row.

    Returns:
        For each row the states of its sequences, `[t, h]` each, float32 on the CPU; of an ensemble
        the mean over its members.
    """
    return compute_outputs(backbone, rows, batch_outputs=_batch_states)


def token_vector_answers(
    rows: Sequence[tuple[Adapter | None, Example]], states: Sequence[tuple[Tensor, ...]]
) -> list[Answer]:
    """For each row of one sequence `{"vectors"}`, a tensor `[t, h]`, and `truncated` if a part of
    its text was cut off.

    Args:
        rows: Adapter and example of each row.
        states: The states of its sequence, as `compute_token_vectors` returns them.
    """
    answers: list[Answer] = []
    for (_, example), (vectors,) in zip(rows, states, strict=True):
        answer: Answer = {"vectors": vectors}
        answers.append({**answer, "truncated": True} if example.truncated else answer)
    return answers


@torch.inference_mode()
def _batch_states(
    backbone: Backbone, batch: Sequence[tuple[Adapter | None, TokenSequence]]
) -> list[Tensor]:
    return to_cpu(token_states(backbone, batch))
