"""A report on a recipe's rows before training: counts, lengths, duplicates and faults."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from itertools import combinations
from statistics import fmean, median, pstdev
from typing import Any

from tqdm import tqdm

from ..backbone.model import Backbone
from ..data.readers import Tell, stop
from ..data.synonyms import Synonyms
from ..errors import DataError
from ..inference.forward import text_limit
from ..tasks.base import Task
from ..tasks.columns import target_columns
from ..tasks.types import Example, Row
from .initial_adapter import fresh_adapter
from .recipe import Recipe

MOST_FAULTS = 20
EXAMPLES = 3
"""Number of duplicates that are shown of each kind."""

BARS = 8
WHOLE = 1 << 40
"""A limit of tokens that no text reaches."""

CHUNK = 512

Splits = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Reading:
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
) -> Reading:
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
    adapter = fresh_adapter(plan, backbone, everything)
    limit, task, reader = text_limit(backbone, adapter), adapter.task, backbone.reader
    found = Reading(task, limit, rows, {}, {}, {}, synonyms)
    with tqdm(total=len(everything), unit="row", disable=None if progress else True) as bar:
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
            found.targets[split] = _targets(task, part, examples, tell)
    return found


def _targets(task: Task, rows: Sequence[Row], examples: Sequence[Example], tell: Tell) -> list[Any]:
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


def check(
    recipe: Recipe, backbone: Backbone, *, shown: int = 3, progress: bool = False
) -> dict[str, Any]:
    """A report on the rows, of plain values.

    Args:
        recipe: The recipe.
        backbone: Its backbone.
        shown: Number of training rows that are shown as tokens.
        progress: Show a progress bar.

    Returns:
        `splits` (for each the number of rows, tokens and answers), `histogram` of tokens,
        `synonyms` (words in the table, training rows that have one of them), `duplicates` inside
        and across splits, `only_outside_training` (labels), `refused` (why
        training would stop, if it would), `first_rows`.

    Raises:
        AdapterkitError: The rows have a fault; the first one.
    """
    reading = read_all_rows(recipe, backbone, progress=progress)
    task, rows = reading.task, reading.rows
    return {
        "name": recipe.name,
        "task": task.type,
        "backbone": backbone.name,
        "limit": reading.limit,
        "splits": {
            split: {
                "rows": len(part),
                **_tokens(reading, split),
                **balance(value for row in part for value in task.label_values(row)),
            }
            for split, part in rows.items()
        },
        "histogram": histogram(
            [n for part in reading.lengths.values() for row in part for n in row]
        ),
        "synonyms": _reach(reading),
        "duplicates": duplicates(rows, task),
        "only_outside_training": _strays(task, rows),
        "refused": _refusal(recipe.task, backbone, reading),
        "first_rows": [
            {
                "row": row.where,
                "tokens": [backbone.reader.tokens(part.input_ids) for part in example.inputs],
                "answer": {role: row.fields[role] for role in target_columns(task.columns)},
                "target": _plain(target),
            }
            for row, example, target in zip(
                rows["train"][:shown],
                reading.examples["train"],
                reading.targets["train"],
                strict=False,
            )
        ],
    }


def _tokens(reading: Reading, split: str) -> dict[str, Any]:
    """Tokens of the sequences of a split before they are cut, and how many rows the limit cuts."""
    cut = windows = 0
    for lengths, example in zip(reading.lengths[split], reading.examples[split], strict=True):
        if max(lengths) > reading.limit:
            more = len(example.inputs) > len(lengths)
            windows, cut = windows + more, cut + (not more)
    sizes = sorted(n for lengths in reading.lengths[split] for n in lengths)
    tokens = {
        "min": sizes[0],
        "median": median(sizes),
        "p95": sizes[math.ceil(0.95 * len(sizes)) - 1],
        "max": sizes[-1],
    }
    return {"tokens": tokens, "cut": cut, "in_windows": windows}


def balance(values: Iterable[str | float]) -> dict[str, Any]:
    """Names with their counts and shares of all names, the most frequent first; numbers as
    their least, mean, median, greatest and standard deviation."""
    names: Counter[str] = Counter()
    numbers: list[float] = []
    for value in values:
        if isinstance(value, str):
            names[value] += 1
        else:
            numbers.append(value)
    found: dict[str, Any] = {}
    if names:
        found["labels"] = {
            name: {"count": count, "share": count / names.total()}
            for name, count in sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))
        }
    if numbers:
        found["numbers"] = {
            "min": min(numbers),
            "mean": fmean(numbers),
            "median": median(numbers),
            "max": max(numbers),
            "std": pstdev(numbers),
        }
    return found


def histogram(sizes: Sequence[int], bars: int = BARS) -> list[tuple[int, int, int]]:
    """First size, last size and number of each of some bars of equal width."""
    least = min(sizes)
    width = math.ceil((max(sizes) - least + 1) / bars)
    counts = Counter((size - least) // width for size in sizes)
    return [
        (least + bar * width, least + (bar + 1) * width - 1, counts[bar])
        for bar in range(max(counts) + 1)
    ]


def duplicates(rows: Splits, task: Task) -> dict[str, Any]:
    """Rows that have the same text as another, apart from case, spaces and width of characters.

    Returns:
        `inside` each split and `across` each two (`"train, test"`): the number of `rows` that
        repeat another, how many of them have another answer (`differing`), and `examples`, pairs
        of places. A row that repeats one of an earlier split counts for the later one.
    """
    same: defaultdict[Any, defaultdict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    answer = target_columns(task.columns).keys()
    for split, part in rows.items():
        for row in part:
            inputs = [row.fields[role] for role in sorted(row.fields.keys() - answer)]
            same[_normal(tuple(inputs))][split].append(row)
    pairs: defaultdict[tuple[str, ...], list[tuple[Row, Row]]] = defaultdict(list)
    for group in same.values():
        for split, (first, *others) in group.items():
            pairs[split,] += [(first, other) for other in others]
        for one, two in combinations(group, 2):
            pairs[one, two] += [(group[one][0], other) for other in group[two]]
    by_splits = {
        ", ".join(key): _pairs_summary(found, task) for key, found in pairs.items() if found
    }
    inside = {key: value for key, value in by_splits.items() if key in rows}
    return {"inside": inside, "across": {k: v for k, v in by_splits.items() if k not in rows}}


def _pairs_summary(pairs: Sequence[tuple[Row, Row]], task: Task) -> dict[str, Any]:
    def differs(one: Row, two: Row) -> bool:
        return any(one.fields[role] != two.fields[role] for role in target_columns(task.columns))

    return {
        "rows": len(pairs),
        "differing": sum(differs(*pair) for pair in pairs),
        "examples": [(one.where, two.where) for one, two in pairs[:EXAMPLES]],
    }


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    return tuple(map(_normal, value)) if isinstance(value, tuple) else value


def _reach(reading: Reading) -> dict[str, int] | None:
    """Words in the table of synonyms, and the number of training rows that it can change."""
    table, task = reading.synonyms, reading.task
    if table is None:
        return None

    def exchanged(text: str, at: str) -> str:
        return table.reworded(text, 1.0, at)

    rows = [row.fields for row in reading.rows["train"]]
    return {
        "words": len(table),
        "rows": sum(task.reworded(fields, exchanged) != fields for fields in rows),
    }


def _strays(task: Task, rows: Splits) -> dict[str, Any]:
    """For each other split the names that no training row has: row count, and the first row."""
    known = {name for row in rows["train"] for name in task.label_values(row)}
    found: dict[str, Any] = {}
    for split, part in rows.items():
        for row in part:
            for name in {x for x in task.label_values(row) if isinstance(x, str)} - known:
                entry = found.setdefault(split, {}).setdefault(
                    name, {"rows": 0, "first": row.where}
                )
                entry["rows"] += 1
    return found


def _refusal(task: Task, backbone: Backbone, reading: Reading) -> str | None:
    """Why training would fail, which knows the labels of the training rows alone; None if not."""
    try:
        fitted = task.fit(reading.rows["train"], backbone.pooling)
        for split, part in reading.rows.items():
            _targets(fitted, part, reading.examples[split], stop)
    except DataError as fault:
        return str(fault)
    return None


def _plain(target: Any) -> Any:
    return asdict(target) if is_dataclass(target) and not isinstance(target, type) else target
