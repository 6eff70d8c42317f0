"""Compares the answers of an exported file with those of its adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..errors import AdapterError
from ..inference.pipeline import compute_outputs, summarize
from ..tasks.types import Example, Outputs
from .padded_model import OWNERS, PaddedModel
from .runtime import Session

TOLERANCE = 1e-4
"""Most difference of a logit, as a share of the largest one and absolutely."""

BATCH = 16
"""Rows of a padded batch."""

Request = tuple[int, Example]
"""The number of an adapter in a file, and a row for it."""

SCORES: Mapping[str | None, Callable[[Tensor], Tensor]] = {
    "softmax": partial(torch.softmax, dim=-1),
    "sigmoid": torch.sigmoid,
    None: torch.clone,
}
"""From the logits of a row to its probabilities, by `Task.score_function`."""


@dataclass(frozen=True)
class Comparison:
    """How far the answers of a file are from those of its adapters.

    Attributes:
        rows: Number of rows.
        difference: Largest difference of a probability, or of a logit if there are none.
        of_probabilities: Whether it is that of a probability.
        same_answers: Rows with the same labels or places in the text; None for other answers.
    """

    rows: int
    difference: float
    of_probabilities: bool
    same_answers: int | None

    def plain(self) -> dict[str, Any]:
        """The numbers by name, as JSON has them."""
        kind = "probability" if self.of_probabilities else "output"
        return {
            "rows": self.rows,
            f"largest_{kind}_difference": self.difference,
            "same_answers": self.same_answers,
        }

    def __str__(self) -> str:
        kind = "probabilities" if self.of_probabilities else "outputs"
        text = f"{self.rows} rows compared: {kind} differ by at most {self.difference:.2g}"
        if self.same_answers is None:
            return text
        return f"{text}, {self.same_answers} answers are the same"


def compare(
    session: Session,
    model: PaddedModel,
    backbone: Backbone,
    requests: Sequence[Request],
    exact: bool,
) -> Comparison:
    """Compares a file with its adapters.

    Args:
        session: Computes the file.
        model: The model that was exported.
        backbone: The backbone.
        requests: The rows.
        exact: Whether a difference is refused.

    Raises:
        AdapterError: Logits differ by more than `TOLERANCE`.
    """
    pairs = [(model.adapters[number], example) for number, example in requests]
    with torch.inference_mode():
        expected = compute_outputs(backbone, pairs)
    found = list(_file_outputs(session, model, backbone, requests))
    for (adapter, _), ours, theirs in zip(pairs, expected, found, strict=True):
        a, b = torch.cat(ours), torch.cat(theirs)
        if exact and not torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE):
            raise AdapterError(
                f"'{adapter.name}' would have other answers in the file: they differ by "
                f"{(a - b).abs().max():.2g}; serve it with adapterkit"
            )
    return _compared(pairs, expected, found)


def _compared(
    pairs: Sequence[tuple[Adapter, Example]],
    expected: Sequence[tuple[Tensor, ...]],
    found: Sequence[tuple[Tensor, ...]],
) -> Comparison:
    task = pairs[0][0].task
    score = SCORES[task.score_function]
    differences, same = [], 0
    for (adapter, example), *both in zip(pairs, expected, found, strict=True):
        ours, theirs = (score(torch.cat(list(one)).squeeze(-1).float()) for one in both)
        differences.append(float((ours - theirs).abs().max()))
        same += len({_answer(adapter, example, one) for one in both}) == 1
    has_answers = task.score_function is not None or task.per_token
    return Comparison(
        len(pairs), max(differences), task.score_function is not None, same if has_answers else None
    )


def _answer(adapter: Adapter, example: Example, logits: tuple[Tensor, ...]) -> str:
    """The answer to a row in a few words."""
    (answer,) = adapter.task.answers(Outputs.of([logits]), [example])
    return summarize(adapter, answer).text


def _file_outputs(
    session: Session, model: PaddedModel, backbone: Backbone, requests: Sequence[Request]
) -> Iterator[tuple[Tensor, ...]]:
    """The logits of each row's sequences, `[1, C]` or `[t, C]` each."""
    sequences = [(number, inputs) for number, example in requests for inputs in example.inputs]
    parts = (sequences[first : first + BATCH] for first in range(0, len(sequences), BATCH))
    logits = chain.from_iterable(_batch_logits(session, model, backbone, part) for part in parts)
    for _, example in requests:
        yield tuple(next(logits) for _ in example.inputs)


def _batch_logits(
    session: Session,
    model: PaddedModel,
    backbone: Backbone,
    sequences: Sequence[tuple[int, TokenSequence]],
) -> Iterator[Tensor]:
    logits = session(_padded(model, backbone, sequences))
    for (number, inputs), own in zip(sequences, logits, strict=True):
        rows = own[: len(inputs)] if own.ndim == 2 else own[None]
        yield rows[:, : model.widths[number]]


def _padded(
    model: PaddedModel, backbone: Backbone, sequences: Sequence[tuple[int, TokenSequence]]
) -> Mapping[str, Tensor]:
    """The inputs of a batch, padded a little beyond its longest sequence."""
    pad = backbone.tokenizer.pad_token_id or 0
    width = min(max(len(inputs) for _, inputs in sequences) + 3, model.limit)
    ids = torch.full((len(sequences), width), pad)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (_, inputs) in enumerate(sequences):
        ids[row, : len(inputs)] = torch.tensor(inputs.input_ids)
        types[row, : len(inputs)] = torch.tensor(inputs.token_type_ids)
        mask[row, : len(inputs)] = 1
    owners = torch.tensor([number for number, _ in sequences])
    named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, OWNERS: owners}
    return {name: named[name] for name in model.inputs}
