"""From what is asked to what is answered: tokenise, compute under a token budget, answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..metrics.base import Predictions
from ..names import BASE
from ..tasks.base import Task, default_task
from ..tasks.fields import Fields
from ..tasks.types import Answer, AnswerSummary, Example, Outputs, Row, Text, vector_summary
from .forward import MAX_TOKENS, by_budget, forward, text_limit
from .labelled import ready
from .lanes import SERIAL, WorkerLanes


@cache
def plain_task() -> Task:
    """How texts for the plain backbone are read."""
    return default_task()()


def encode_requests(
    backbone: Backbone,
    owners: Sequence[Adapter | None],
    asked: Sequence[Text],
    called: Sequence[str] | None = None,
) -> list[Example]:
    """What is asked as each adapter's task reads it, cut to each adapter's limit.

    Raises:
        AdapterkitError: A text is empty or not a text.
    """
    names = called or [f"text {number}" for number in range(1, len(asked) + 1)]
    rows: list[Fields] = []
    together: dict[tuple[int, Task], list[int]] = {}
    for place, (owner, text, where) in enumerate(zip(owners, asked, names, strict=True)):
        task = owner.task if owner is not None else plain_task()
        rows.append(task.fields(text, where))
        together.setdefault((text_limit(backbone, owner), task), []).append(place)
    examples: list[Example] = [Example(())] * len(rows)
    for (limit, task), places in together.items():
        found = task.examples([rows[place] for place in places], backbone.reader, limit)
        for place, example in zip(places, found, strict=True):
            examples[place] = example
    return examples


def compute_outputs(
    backbone: Backbone,
    rows: Sequence[tuple[Adapter | None, Example]],
    max_tokens: int = MAX_TOKENS,
    bar: Any = None,
    lanes: WorkerLanes = SERIAL,
) -> list[tuple[Tensor, ...]]:
    """Examples through the one forward, under a token budget.

    Args:
        backbone: The backbone.
        rows: Adapter and example of each row.
        max_tokens: Most tokens in one packed batch.
        bar: A progress bar to move on, a step a row.
        lanes: Where batches are computed side by side.

    Returns:
        For each row its sequences' lines, `[lines, C]` each, float32 on the CPU; of an ensemble
        their mean over the members, the one place where members meet.
    """
    # An adapter's rows stand together, so that as few batches as can be have to gather it, and a
    # row's members do, so that what they share of it is computed once.
    first: dict[int, int] = {}
    order = sorted(range(len(rows)), key=lambda row: first.setdefault(id(rows[row][0]), len(first)))
    flat = [
        (member, inputs, row)
        for row in order
        for member in members_of(rows[row][0])
        for inputs in rows[row][1].inputs
    ]
    sizes = [len(inputs) for _, inputs, _ in flat]
    last = {row: place for place, (_, _, row) in enumerate(flat)}

    def through(part: range) -> list[tuple[int, Tensor]]:
        with torch.inference_mode():
            pieces = forward(backbone, [flat[place][:2] for place in part])
            values = to_cpu([piece.values for piece in pieces])
        return [
            (part.start + place, lines)
            for piece, said in zip(pieces, values, strict=True)
            for place, lines in zip(piece.rows, said.split_with_sizes(piece.counts), strict=True)
        ]

    said: list[list[Tensor]] = [[] for _ in rows]
    parts = list(by_budget(sizes, lanes.budget(sizes, max_tokens)))
    for found in lanes.map(through, parts):
        for place, lines in sorted(found, key=lambda pair: pair[0]):
            said[flat[place][2]].append(lines)
        if bar is not None:
            bar.update(sum(last[flat[place][2]] == place for place, _ in found))
    return [
        _averaged(lines, len(members_of(adapter)))
        for (adapter, _), lines in zip(rows, said, strict=True)
    ]


def to_cpu(values: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one device on the CPU, float32, from a GPU in one copy: the wait for each would
    be longer than it takes."""
    if values[0].device.type == "cpu":
        return [one.float() for one in values]
    flat = torch.cat([one.float().flatten() for one in values]).cpu()
    parts = flat.split([one.numel() for one in values])
    return [part.view(one.shape) for part, one in zip(parts, values, strict=True)]


def members_of(adapter: Adapter | None) -> Sequence[Adapter | None]:
    """All that compute a row asked of an adapter: the members of an ensemble, itself for most."""
    return (None,) if adapter is None else adapter.members


def n_tokens(adapter: Adapter | None, example: Example) -> int:
    """Tokens that are computed to answer a row."""
    return len(members_of(adapter)) * sum(map(len, example.inputs))


def _averaged(lines: Sequence[Tensor], members: int) -> tuple[Tensor, ...]:
    """A row's lines, member after member, to their mean over the members, sequence by sequence."""
    if members == 1:
        return tuple(lines)
    n = len(lines) // members
    return tuple(torch.stack(list(lines[place::n])).mean(0) for place in range(n))


def answer_rows(
    backbone: Backbone,
    rows: Sequence[tuple[Adapter | None, Example]],
    max_tokens: int = MAX_TOKENS,
    bar: Any = None,
    lanes: WorkerLanes = SERIAL,
) -> list[Answer]:
    """Examples of any adapters to what each adapter's task answers, in their order.

    Args:
        backbone: The backbone.
        rows: Adapter (None: the plain backbone) and example of each row.
        max_tokens: Most tokens in one packed batch.
        bar: A progress bar to move on, a step a row.
        lanes: Where batches are computed side by side.
    """
    said = compute_outputs(backbone, rows, max_tokens, bar, lanes)
    asked: dict[int, list[int]] = {}
    for place, (adapter, _) in enumerate(rows):
        asked.setdefault(id(adapter), []).append(place)
    answers: list[Answer] = [{} for _ in rows]
    for places in asked.values():
        outputs = Outputs.of([said[place] for place in places])
        found = _answers(rows[places[0]][0], outputs, [rows[place][1] for place in places])
        for place, one in zip(places, found, strict=True):
            answers[place] = {**one, "truncated": True} if rows[place][1].truncated else one
    return answers


def summarize(adapter: Adapter | None, answer: Answer) -> AnswerSummary:
    """An answer in one line, as the adapter's task puts it; None: of the plain backbone."""
    return vector_summary(answer["vector"]) if adapter is None else adapter.task.summary(answer)


def predictions(
    backbone: Backbone, adapter: Adapter, rows: Sequence[Row], *, progress: bool = False
) -> Predictions:
    """What an adapter says of labelled rows beside what is right.

    Raises:
        DataError: A row's label is not one the adapter knows.
    """
    split = ready(backbone, adapter, rows).judged(adapter.task)
    with tqdm(total=len(rows), unit="row", disable=None if progress else True) as bar:
        said = compute_outputs(
            backbone, [(adapter, example) for example in split.examples], bar=bar
        )
    return split.predictions(adapter.task, Outputs.of(said))


def evaluate(
    backbone: Backbone, adapter: Adapter, rows: Sequence[Row], *, progress: bool = False
) -> dict[str, float]:
    """An adapter's metrics on labelled rows.

    Raises:
        DataError: A row's label is not one the adapter knows.
    """
    return adapter.task.metrics(predictions(backbone, adapter, rows, progress=progress))


def _answers(
    adapter: Adapter | None, outputs: Outputs, examples: Sequence[Example]
) -> list[Answer]:
    if adapter is None:
        return [{"adapter": BASE, "vector": line} for line in outputs.logits.tolist()]
    found = adapter.task.answers(outputs, examples)
    return [{"adapter": adapter.name, **answer} for answer in found]
