"""Rows from CSV and JSONL files, their splits, and their faults by file and row."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError, did_you_mean
from .fields import check_field
from .task import Row, Task

SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = 0.1

Columns = Mapping[str, tuple[str, str]]
"""Role to column and kind of value."""

LONGEST_FIELD = 1 << 24  # characters in one CSV field


@dataclass(frozen=True)
class Data:
    """Where rows come from and how they are split.

    Attributes:
        path: A CSV or JSONL file with all rows; its split column, where it has one, says which
            are train, validation and test.
        train: A file with the training rows, in place of path.
        validation: A file, or the share of the training rows to set aside (drawn by seed, label by
            label); the split column's rows, else 0.1, where left out; 0 for none.
        test: A file or a share, likewise; the split column's rows, else none, where left out.
        text: Column of the text.
        text_pair: Column of a second text, for tasks on text pairs.
        label: Column of the label, the number or the right choice.
        labels: Column of the labels of multi_label: a list, or labels with | between them.
        tokens: Column of the words of tagging: a list, or words with spaces between them.
        tags: Column of their tags, likewise.
        question: Column of the question of question_answering.
        context: Column of the text that holds its answer.
        answers: Column of its answers, {text: [...], answer_start: [...]}; empty lists for none.
        head: Column of a relation's head, {start, end} in characters.
        tail: Column of its tail, likewise.
        choices: Column of the choices of multiple_choice: a list, or texts with | between them.
        split: Column of the split.
    """

    path: str | None = None
    train: str | None = None
    validation: str | float | None = None
    test: str | float | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    labels: str = "labels"
    tokens: str = "tokens"
    tags: str = "tags"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    head: str = "head"
    tail: str = "tail"
    choices: str = "choices"
    split: str = "split"

    def __post_init__(self) -> None:
        if (self.path is None) == (self.train is None):
            raise ValueError("path: give either path (one file) or train (a file for each split)")
        for name in ("validation", "test"):
            share = getattr(self, name)
            if isinstance(share, float) and not 0.0 <= share < 1.0:
                raise ValueError(f"{name}: expected a share from 0 to below 1, got {share}")

    def columns(self, task: Task) -> Columns:
        """What a task reads of a file, and in which columns; a second text only where named."""
        kinds = {**task.reads, **task.learns}
        if self.text_pair is not None and "text_pair" in task.may_read:
            kinds["text_pair"] = task.may_read["text_pair"]
        return {role: (str(getattr(self, role)), kind) for role, kind in kinds.items()}

    def load(self, folder: Path, seed: int, task: Task) -> dict[str, list[Row]]:
        """Every split that has rows.

        Args:
            folder: What relative paths start from.
            seed: Of the drawn shares.
            task: What reads the rows.

        Raises:
            DataError: A file or a row is not sound.
        """
        columns = self.columns(task)
        splits: dict[str, list[Row]] = defaultdict(list)
        main = folder / str(self.train if self.path is None else self.path)
        for split, row in read_rows(main, columns, self.split if self.path else None):
            splits[split or "train"].append(row)
        for name in ("validation", "test"):
            source = getattr(self, name)
            if isinstance(source, str):
                if name in splits:
                    raise DataError(
                        f"{main} has rows of split '{name}', and data.{name} names a file too"
                    )
                splits[name] = [row for _, row in read_rows(folder / source, columns, None)]
            elif name not in splits:
                share = VALIDATION_SHARE if source is None and name == "validation" else source
                splits["train"], splits[name] = draw(
                    splits["train"], share or 0.0, seed, task.stratum
                )
        if not splits["train"]:
            raise DataError(f"{main}: there are no training rows")
        return {name: splits[name] for name in SPLITS if splits.get(name)}


def draw(
    rows: Sequence[Row], share: float, seed: int, stratum: Callable[[Row], Hashable]
) -> tuple[list[Row], list[Row]]:
    """Sets a share of the rows aside, stratum by stratum, the order of the rest kept.

    A label's only row stays where it is: a label that was never trained cannot be checked.
    """
    strata = defaultdict(list)
    for place, row in enumerate(rows):
        strata[stratum(row)].append(place)
    aside: set[int] = set()
    generator = random.Random(seed)
    owed = 0.0
    for key in sorted(strata, key=str):
        places = strata[key]
        # What rounding leaves of one label's share is owed to the next: small labels count too.
        owed += share * len(places)
        taken = min(int(owed + 0.5), len(places) - 1)
        owed -= taken
        aside.update(generator.sample(places, taken))
    kept = [row for place, row in enumerate(rows) if place not in aside]
    return kept, [rows[place] for place in sorted(aside)]


def read_rows(path: Path, columns: Columns, split: str | None) -> Iterator[tuple[str | None, Row]]:
    """Rows of a file and their split, where the file has that column.

    Args:
        path: CSV (by its `.csv` ending) or JSONL, in UTF-8.
        columns: Role to column and kind of value; every row must have every one.
        split: Column of the split; None reads none.

    Raises:
        DataError: The first fault, with file, row and value.
    """
    for number, record in read_records(path):
        where = f"{path}:{number}"
        fields = read_fields(record, columns, where)
        part = record.get(split) if split is not None else None
        if split in record and part not in SPLITS:
            raise DataError(f"{where}: split is {part!r}; expected {', '.join(SPLITS)}")
        yield part, Row(fields, where)


def read_fields(record: Mapping[str, Any], columns: Columns, where: str) -> dict[str, Any]:
    """A record's values by role.

    Raises:
        DataError: A column is missing, or what it holds is empty or of another kind.
    """
    for role, (column, _) in columns.items():
        if column not in record:
            raise DataError(
                f"{where}: there is no column '{column}' for {role}; {did_you_mean(column, record)}"
            )
    return {
        role: check_field(kind, record[column], f"{where}: column '{column}'")
        for role, (column, kind) in columns.items()
    }


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and record of every row of a CSV or JSONL file.

    Raises:
        DataError: The file is missing, empty, or a row is broken.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.suffix not in (".csv", ".jsonl"):
        raise DataError(f"{path}: expected a file ending in .csv or .jsonl")
    empty = True
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, record in (_csv if path.suffix == ".csv" else _jsonl)(file, path):
                empty = False
                yield number, record
    except UnicodeDecodeError:
        raise DataError(f"{_first_foreign(path)}; save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if empty:
        raise DataError(f"{path}: there are no rows")


def _csv(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = _cells(file, path)
    first, header = next(rows, (1, []))
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}:{first}: the column '{twice}' is there twice")
    for begins, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}:{begins}: {len(cells)} fields where the header has {len(header)}; "
                "quote texts that hold commas"
            )
        yield begins, dict(zip(header, cells, strict=True))


def _cells(file: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """First line and fields of every row that is not blank; a quoted text may span lines."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(file, strict=True)
    begins = 1
    try:
        for cells in reader:
            if cells:
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{begins}: not CSV ({error}); close every quote and double those inside a text"
        ) from None


def _jsonl(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: not JSON ({error.msg} at character {error.pos + 1})"
            ) from None
        except (ValueError, RecursionError) as error:  # a number too long, lists too deep
            raise DataError(f"{path}:{number}: cannot be read ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, got {type(record).__name__}")
        yield number, record


def _first_foreign(path: Path) -> str:
    """Where a file stops being UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"{path}:{number}: the byte {line[error.start]:#04x} is not UTF-8 text"
    return f"{path}: not UTF-8 text"


def fingerprint(splits: Mapping[str, Sequence[Row]]) -> str:
    """sha256 of every split's rows, in order."""
    whole = hashlib.sha256()
    for name, rows in splits.items():
        for row in rows:
            whole.update(json.dumps([name, dict(row.fields)], sort_keys=True).encode())
    return f"sha256:{whole.hexdigest()}"
