"""All rows of a recipe, read and checked before training, and the faults that they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..backbone.model import Backbone
from ..data.readers import Tell, stop
from ..data.synonyms import Synonyms
from ..errors import DataError
from ..inference.forward import text_limit
from ..inference.progress_bar import progress_bar
from ..tasks.base import Task
from ..tasks.types import Example, Row
from .initial_adapter import fresh_adapter
from .recipe import Recipe

MOST_FAULTS = 20

WHOLE = 1 << 40
"""A limit of tokens that no text reaches."""

CHUNK = 512
"""Rows that are tokenised at once."""


@dataclass(frozen=True)
class CheckedRows:
    """A recipe's rows as its task reads them.

    Attributes:
        task: The task, fitted to the rows of all splits.
        limit: Most tokens of a sequence.
        rows: The rows of each split.
        examples: The same, cut to the limit.
        lengths: For each row the tokens of each of its sequences before they are cut.
        targets: The right answer of each row.
        synonyms: The table of synonyms for the training rows.
    """

    task: Task
    limit: int
    rows: dict[str, list[Row]]
    examples: dict[str, list[Example]]
    lengths: dict[str, list[tuple[int, ...]]]
    targets: dict[str, list[Any]]
    synonyms: Synonyms | None = None


def read_all_rows(
    recipe: Recipe, backbone: Backbone, tell: Tell = stop, *, progress: bool = False
) -> CheckedRows:
    """Reads, tokenises and checks every row.

    Args:
        recipe: The recipe.
        backbone: Its backbone.
        tell: Called with every fault of a file or a row.
        progress: Show a progress bar.

    Raises:
        AdapterkitError: No training on the rows is possible.
    """
    synonyms = recipe.augmentation.load(recipe.folder, tell)
    rows = recipe.data.load(recipe.folder, recipe.training.seed, recipe.task, tell)
    everything = [row for part in rows.values() for row in part]
    plan = replace(recipe, training=replace(recipe.training, start_from=None, on_top_of=None))
    adapter = fresh_adapter(plan, backbone, everything, parents=False)
    limit, task, reader = text_limit(backbone, adapter), adapter.task, backbone.reader
    found = CheckedRows(task, limit, rows, {}, {}, {}, synonyms)
    with progress_bar(progress, total=len(everything), unit="row") as bar:
        for split, part in rows.items():
            examples: list[Example] = []
            lengths: list[tuple[int, ...]] = []
            for first in range(0, len(part), CHUNK):
                fields = [row.fields for row in part[first : first + CHUNK]]
                examples += task.examples(fields, reader, limit)
                uncut = task.examples(fields, reader, WHOLE)
                lengths += [tuple(map(len, example.inputs)) for example in uncut]
                bar.update(len(fields))
            found.examples[split], found.lengths[split] = examples, lengths
            found.targets[split] = read_targets(task, part, examples, tell)
    return found


def read_targets(
    task: Task, rows: Sequence[Row], examples: Sequence[Example], tell: Tell
) -> list[Any]:
    """The right answer of each row; `tell` gets the fault of a row that has none."""
    targets = []
    for row, example in zip(rows, examples, strict=True):
        try:
            targets.append(task.target(row, example))
        except DataError as fault:
            tell(fault)
    return targets


def faults(recipe: Recipe, backbone: Backbone) -> list[str]:
    """All faults of the rows, up to `MOST_FAULTS` messages."""
    found: list[str] = []

    def tell(fault: DataError) -> None:
        found.append(str(fault))
        if len(found) == MOST_FAULTS:
            raise fault

    try:
        read_all_rows(recipe, backbone, tell)
    except DataError as fault:
        # What follows from rows that were left out, such as too few labels, is no further fault.
        return found or [str(fault)]
    return found
