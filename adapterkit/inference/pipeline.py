"""From requests to answers: tokenise, compute in batches of limited size, answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import Adapter
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..data.memory import RowsInMemory
from ..errors import AdapterkitError
from ..metrics.base import Predictions
from ..names import BASE
from ..tasks.base import Task, default_task
from ..tasks.fields import Fields
from ..tasks.types import Answer, AnswerSummary, Example, Outputs, Row, Text, vector_summary
from .forward import MAX_TOKENS, by_budget, forward, text_limit
from .labelled import labelled_rows, prepare_rows
from .lanes import SERIAL, WorkerLanes
from .progress_bar import progress_bar


@cache
def plain_task() -> Task:
    """The task that reads texts for the plain backbone."""
    return default_task()()


def encode_requests(
    backbone: Backbone,
    owners: Sequence[Adapter | None],
    texts: Sequence[Text],
    names: Sequence[str] | None = None,
) -> list[Example]:
    """Tokenises requests as the task of each adapter reads them, cut to the adapter's limit.

    Args:
        backbone: The backbone.
        owners: Adapter of each request; None for the plain backbone.
        texts: Text of each request.
        names: How messages call each text; its number, counted from 1, if omitted.

    Raises:
        AdapterkitError: A text is empty or not a text.
    """
    names = names or [f"text {number}" for number in range(1, len(texts) + 1)]
    rows: list[Fields] = []
    groups: dict[tuple[int, Task], list[int]] = {}
    for index, (owner, text, name) in enumerate(zip(owners, texts, names, strict=True)):
        reader = owner if owner is not None else plain_task()
        rows.append(reader.fields(text, name))
        task = owner.task if owner is not None else plain_task()
        groups.setdefault((text_limit(backbone, owner), task), []).append(index)
    examples: list[Example] = [Example(())] * len(rows)
    for (limit, task), indices in groups.items():
        found = task.examples([rows[index] for index in indices], backbone.reader, limit)
        for index, example in zip(indices, found, strict=True):
            examples[index] = example
    return examples


NamedText = tuple[Adapter | None, Text, str]
"""A request: its adapter (None for the plain backbone), its text, and how messages call it."""


def encode_rows(backbone: Backbone, rows: Sequence[NamedText]) -> list[Example]:
    """Tokenises requests as `encode_requests` does."""
    owners, texts, names = zip(*rows, strict=True)
    return encode_requests(backbone, owners, texts, names)


def encode_each(backbone: Backbone, rows: Sequence[NamedText]) -> list[Example | AdapterkitError]:
    """Tokenises requests as `encode_rows` does: for each its example, or what is wrong with it."""
    try:  # all at once is faster
        return [*encode_rows(backbone, rows)]
    except AdapterkitError:
        return [_encode_one(backbone, row) for row in rows]


def _encode_one(backbone: Backbone, row: NamedText) -> Example | AdapterkitError:
    try:
        return encode_rows(backbone, [row])[0]
    except AdapterkitError as error:
        return error


BatchOutputs = Callable[[Backbone, Sequence[tuple[Adapter | None, TokenSequence]]], list[Tensor]]
"""From a backbone and a batch to the output of each sequence, float32 on the CPU."""


def compute_outputs(
    backbone: Backbone,
    rows: Sequence[tuple[Adapter | None, Example]],
    max_tokens: int = MAX_TOKENS,
    bar: Any = None,
    lanes: WorkerLanes = SERIAL,
    batch_outputs: BatchOutputs | None = None,
) -> list[tuple[Tensor, ...]]:
    """Computes the outputs of examples, in batches of limited size.

    Args:
        backbone: The backbone.
        rows: Adapter and example of each row.
        max_tokens: Most tokens in one packed batch.
        bar: A progress bar that is moved by one step for each row.
        lanes: Where batches are computed at the same time.
        batch_outputs: Computes a batch; if omitted, the logits of its heads.

    Returns:
        For each row the logits of its sequences, `[n, C]` each, float32 on the CPU; of an ensemble
        the mean over its members.
    """
    sequences = _flat_sequences(rows)
    sizes = [len(inputs) for _, inputs, _ in sequences]
    last = {row: index for index, (_, _, row) in enumerate(sequences)}

    def compute(part: range) -> list[Tensor]:
        compute_batch = batch_outputs or _batch_logits
        return compute_batch(backbone, [sequences[index][:2] for index in part])

    row_logits: list[list[Tensor]] = [[] for _ in rows]
    parts = list(by_budget(sizes, lanes.budget(sizes, max_tokens)))
    for part, found in zip(parts, lanes.map(compute, parts), strict=True):
        for index, logits in zip(part, found, strict=True):
            row_logits[sequences[index][2]].append(logits)
        if bar is not None:
            bar.update(sum(last[sequences[index][2]] == index for index in part))
    return [
        _mean_over_members(logits, len(members_of(adapter)))
        for (adapter, _), logits in zip(rows, row_logits, strict=True)
    ]


def _flat_sequences(
    rows: Sequence[tuple[Adapter | None, Example]],
) -> list[tuple[Adapter | None, TokenSequence, int]]:
    """The sequences of rows for each member of their adapter: member, sequence, index of the row.

    The rows of an adapter stand together, so that few batches need to gather its tensors. So do the
    members of a row, so that what they share is computed once.
    """
    first: dict[int, int] = {}
    order = sorted(range(len(rows)), key=lambda row: first.setdefault(id(rows[row][0]), len(first)))
    return [
        (member, inputs, row)
        for row in order
        for member in members_of(rows[row][0])
        for inputs in rows[row][1].inputs
    ]


@torch.inference_mode()
def _batch_logits(
    backbone: Backbone, batch: Sequence[tuple[Adapter | None, TokenSequence]]
) -> list[Tensor]:
    """The logits of each sequence of a batch, float32 on the CPU."""
    outputs = forward(backbone, batch)
    found: dict[int, Tensor] = {}
    for output, values in zip(outputs, to_cpu([one.values for one in outputs]), strict=True):
        found |= zip(output.rows, values.split_with_sizes(output.counts), strict=True)
    return [found[index] for index in range(len(batch))]


def to_cpu(values: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one device on the CPU, float32. From a GPU they are copied all at once, since each
    copy waits for the GPU."""
    if values[0].device.type == "cpu":
        return [one.float() for one in values]
    flat = torch.cat([one.float().flatten() for one in values]).cpu()
    parts = flat.split([one.numel() for one in values])
    return [part.view(one.shape) for part, one in zip(parts, values, strict=True)]


def members_of(adapter: Adapter | None) -> Sequence[Adapter | None]:
    """The adapters that compute a row of an adapter: the members of an ensemble, or itself."""
    return (None,) if adapter is None else adapter.members


def n_characters(adapter: Adapter | None, text: Text) -> int:
    """Number of characters that are tokenised for a request, which is not checked yet."""
    return (plain_task() if adapter is None else adapter.task).n_characters(text)


def n_tokens(adapter: Adapter | None, example: Example) -> int:
    """Number of tokens that are computed for a row."""
    return len(members_of(adapter)) * sum(map(len, example.inputs))


def _mean_over_members(logits: Sequence[Tensor], members: int) -> tuple[Tensor, ...]:
    """The mean over the members for each sequence of a row, from its logits member by member."""
    if members == 1:
        return tuple(logits)
    n = len(logits) // members
    return tuple(torch.stack(list(logits[index::n])).mean(0) for index in range(n))


def answer_rows(
    backbone: Backbone,
    rows: Sequence[tuple[Adapter | None, Example]],
    max_tokens: int = MAX_TOKENS,
    bar: Any = None,
    lanes: WorkerLanes = SERIAL,
) -> list[Answer]:
    """Computes the answers of any adapters to examples, in their order.

    Args:
        backbone: The backbone.
        rows: Adapter (None for the plain backbone) and example of each row.
        max_tokens: Most tokens in one packed batch.
        bar: A progress bar that is moved by one step for each row.
        lanes: Where batches are computed at the same time.
    """
    return rows_to_answers(rows, compute_outputs(backbone, rows, max_tokens, bar, lanes))


def rows_to_answers(
    rows: Sequence[tuple[Adapter | None, Example]], logits: Sequence[tuple[Tensor, ...]]
) -> list[Answer]:
    """The answers of any adapters to examples whose outputs are computed.

    Args:
        rows: Adapter (None for the plain backbone) and example of each row.
        logits: For each row the logits of its sequences, as `compute_outputs` returns them.
    """
    by_adapter: dict[int, list[int]] = {}
    for index, (adapter, _) in enumerate(rows):
        by_adapter.setdefault(id(adapter), []).append(index)
    answers: list[Answer] = [{} for _ in rows]
    for indices in by_adapter.values():
        outputs = Outputs.of([logits[index] for index in indices])
        found = _answers(rows[indices[0]][0], outputs, [rows[index][1] for index in indices])
        for index, answer in zip(indices, found, strict=True):
            truncated = rows[index][1].truncated
            answers[index] = {**answer, "truncated": True} if truncated else answer
    return answers


def summarize(adapter: Adapter | None, answer: Answer) -> AnswerSummary:
    """An answer of an adapter (None for the plain backbone) in one line."""
    return vector_summary(answer["vector"]) if adapter is None else adapter.task.summary(answer)


def predictions(
    backbone: Backbone, adapter: Adapter, rows: Sequence[Row], *, progress: bool = False
) -> Predictions:
    """The answers of an adapter for labelled rows, with the correct ones.

    Raises:
        DataError: A row has a label that the adapter does not know.
    """
    split = prepare_rows(backbone, adapter, rows).for_evaluation(adapter.task)
    with progress_bar(progress, total=len(rows), unit="row") as bar:
        examples = [(adapter, example) for example in split.examples]
        logits = compute_outputs(backbone, examples, bar=bar)
    return split.predictions(adapter.task, Outputs.of(logits))


def evaluate(
    backbone: Backbone,
    adapter: Adapter,
    rows: Sequence[Row] | RowsInMemory,
    *,
    progress: bool = False,
) -> dict[str, float]:
    """The metrics of an adapter on labelled rows.

    Args:
        backbone: The backbone.
        adapter: The adapter.
        rows: As `read_rows` returns them, a list of mappings, a data frame or a data set.
        progress: Show a progress bar.

    Raises:
        DataError: A row is not valid, or has a label that the adapter does not know.
    """
    found = predictions(backbone, adapter, labelled_rows(rows, adapter), progress=progress)
    return adapter.task.metrics(found)


def _answers(
    adapter: Adapter | None, outputs: Outputs, examples: Sequence[Example]
) -> list[Answer]:
    if adapter is None:
        return [{"adapter": BASE, "vector": vector} for vector in outputs.logits.tolist()]
    found = adapter.task.answers(outputs, examples)
    return [{"adapter": adapter.name, **answer} for answer in found]
