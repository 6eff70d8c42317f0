"""Rows and their splits, from files and Hugging Face data sets; every value is checked."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from ..errors import DataError, did_you_mean
from ..schema import build, check_least, dump
from ..tasks.base import Task, column_roles
from ..tasks.columns import ColumnName, SourceColumn, column_names, source_columns
from ..tasks.types import Row
from . import hf_datasets
from .file_format import FileFormat, Quoting
from .memory import RowsInMemory, records_by_split
from .readers import Records, Tell, read_records, stop
from .splits import SPLITS, draw, first, fold, shuffled

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Data:
    """Where rows come from and how they are split.

    Attributes:
        path: A CSV, TSV, JSONL, JSON, Parquet or .txt file (a text a line) with all rows. Its split
            column, if it has one, names the split of each row: train, validation or test.
        train: A file with the training rows, in place of path.
        dataset: A data set for the library datasets, in place of path: a folder that save_to_disk
            wrote, a folder of data files, or a name on the hub. Its splits are used (dev and valid
            are validation); train, validation and test may name others.
        subset: Configuration of the data set.
        revision: Branch, tag or commit of the data set on the hub.
        validation: A file, or the share of the training rows to set aside (drawn by seed, for each
            label) if they have no such split; 0 for none. If omitted: the rows of the split column,
            else 0.1.
        test: A file or a share, likewise. If omitted: the rows of the split column, else none.
        folds: Number of folds of all rows but the test rows (drawn by seed, for each label).
        fold: Number of the fold with the validation rows, from 0; the others are trained on.
        streaming: Read rows one by one, once, and no more than limit. The rows that are kept are
            drawn by seed among the next 10,000.
        limit: Most rows of each split when streaming.
        split: Column of the split.
        columns: Name of the column of each role that the task declares, such as {text: message}.
            The role as a key of data, text: message, means the same. If omitted: the role. A list
            of names, where the task can read one, is a column for each label.
        separator: Character between the fields of a .csv or .tsv file. If omitted: a tab in a .tsv
            file; a comma in a .csv file, or the semicolon or tab of a header without commas.
        quoting: minimal: quotes enclose a field with separators or line ends. none: a quote is a
            plain character. If omitted: minimal, and a field of a .tsv file with a tab or a line
            end is refused.
        encoding: Encoding of text files, such as cp1252 or utf-16.
    """

    path: str | None = None
    train: str | None = None
    dataset: str | None = None
    subset: str | None = None
    revision: str | None = None
    validation: str | float | None = None
    test: str | float | None = None
    folds: int | None = None
    fold: int = 0
    streaming: bool = False
    limit: int | None = None
    split: str = "split"
    columns: Mapping[str, ColumnName] = field(default_factory=dict, hash=False)
    separator: str | None = None
    quoting: Quoting | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        if sum(source is not None for source in self._given_sources) > 1:
            raise ValueError(
                "path: give either path (one file), train (a file for each split) or dataset"
            )
        for name in ("subset", "revision"):
            if getattr(self, name) is not None and self.dataset is None:
                raise ValueError(f"{name}: goes with dataset, and there is none")
        for name in ("validation", "test"):
            share = getattr(self, name)
            if isinstance(share, float) and not 0.0 <= share < 1.0:
                raise ValueError(f"{name}: expected a share from 0 to below 1, got {share}")
        if self.streaming != (self.limit is not None):
            raise ValueError("limit: goes with streaming: true; give both or neither")
        check_least(self, 1, "limit")
        check_least(self, 2, "folds")
        if not 0 <= self.fold < (self.folds or 1):
            raise ValueError(
                f"fold: expected one of {self.folds or 'no'} folds from 0, got {self.fold}"
            )
        if self.folds is not None and isinstance(self.validation, float):
            raise ValueError("validation: a fold is the validation rows; leave the share out")
        _ = self.file_format  # checks its settings

    @property
    def file_format(self) -> FileFormat:
        """How the files are written."""
        return FileFormat(self.separator, self.quoting, self.encoding)

    @classmethod
    def of(cls, section: Any) -> Self:
        """The section `data` of a recipe, in which a role of any task is a key as well.

        Raises:
            ValueError: A key or a value is wrong; the message names it.
        """
        if not isinstance(section, Mapping):
            raise ValueError(f"data: expected keys and values, got {section!r}")
        defaults = _default_names()
        own = {one.name for one in fields(cls)}
        for key in section:
            if key not in own and key not in defaults:
                hint = did_you_mean(str(key), {*own, *defaults})
                raise ValueError(f"data.{key}: there is no such key; {hint}")
        names = column_names(section, defaults)
        columns = {role: name for role, name in names.items() if name != defaults[role]}
        rest = {key: value for key, value in section.items() if key in own and key != "columns"}
        data: Self = replace(build(cls, rest, "data"), columns=columns)
        return data

    def plain(self, task: Task) -> dict[str, Any]:
        """The section as `of` takes it, every default written out.

        Args:
            task: The recipe's task, whose columns are named.
        """
        defaults = _default_names()
        own = {key: value for key, value in dump(self).items() if key != "columns"}
        return {**own, **{role: defaults[role] for role in task.columns}, **self.columns}

    def load(
        self,
        folder: Path,
        seed: int,
        task: Task,
        tell: Tell = stop,
        rows: RowsInMemory | None = None,
    ) -> dict[str, list[Row]]:
        """Reads the rows of every split that has rows.

        Args:
            folder: Folder that relative paths start from.
            seed: Seed of drawn splits.
            task: The task, whose columns are read.
            tell: Called with every error of a file or a row. If it returns, the row is left out.
            rows: Rows in memory, for a section that names no source.

        Raises:
            DataError: There are no training rows, or `tell` raised an error.
        """
        return self.divide(self.read(folder, seed, task, tell, rows), folder, seed, task)

    def read(
        self,
        folder: Path,
        seed: int,
        task: Task,
        tell: Tell = stop,
        rows: RowsInMemory | None = None,
    ) -> dict[str, list[Row]]:
        """Reads the rows as `load` does, each in the split that its source names.

        Raises:
            DataError: `tell` raised an error.
        """
        if (rows is None) == (not any(source is not None for source in self._given_sources)):
            raise DataError(
                "data.path: give either path (one file), train (a file for each split) or dataset"
                if rows is None
                else "rows: data names a source too; leave one of them out"
            )
        return self._read(folder, seed, source_columns(task.columns, self.columns), tell, rows)

    def divide(
        self, read: Mapping[str, Sequence[Row]], folder: Path, seed: int, task: Task
    ) -> dict[str, list[Row]]:
        """Draws the splits and folds of rows that were read.

        Args:
            read: The rows as `read` returns them.
            folder: Folder that relative paths start from.
            seed: Seed of drawn splits.
            task: The task, by whose labels splits are drawn.

        Raises:
            DataError: There are no training rows, or fewer than folds; or a share is to be drawn
                for a split that has rows.
        """
        splits = {"train": [], **{name: list(rows) for name, rows in read.items()}}
        shares = {"validation": self.validation, "test": self.test}
        for name, share in shares.items():
            if share == 0:
                splits.pop(name, None)
            elif isinstance(share, float) and name in splits:
                raise DataError(
                    f"data.{name}: {share} is a share of the training rows, and there are "
                    f"{len(splits[name])} {name} rows already; leave it out, or give 0 to leave "
                    "those rows out"
                )
        if self.folds is not None:
            del shares["validation"]
            splits["train"] = [*splits["train"], *splits.pop("validation", [])]
        elif self.validation is None:
            shares["validation"] = VALIDATION_SHARE
        for name, share in shares.items():
            if name not in splits and isinstance(share, float):
                splits["train"], splits[name] = draw(splits["train"], share, seed, task.stratum)
        if not splits["train"]:
            named = any(source is not None for source in self._given_sources)
            source = (self.dataset or self._main(folder)) if named else "rows"
            raise DataError(f"{source}: there are no training rows")
        if self.folds is not None:
            splits["train"], splits["validation"] = fold(
                splits["train"], self.folds, self.fold, seed, task.stratum
            )
        return {name: splits[name] for name in SPLITS if splits.get(name)}

    @property
    def _given_sources(self) -> tuple[str | None, ...]:
        """What names the training rows; a section for rows in memory has none of it."""
        return self.path, self.train if self.dataset is None else None, self.dataset

    def _read(
        self,
        folder: Path,
        seed: int,
        columns: Mapping[str, SourceColumn],
        tell: Tell,
        rows: RowsInMemory | None,
    ) -> defaultdict[str, list[Row]]:
        splits: defaultdict[str, list[Row]] = defaultdict(list)
        sources = self._sources(folder, tell) if rows is None else records_by_split(rows)
        for split, records in sources:
            if split in splits:
                raise DataError(
                    f"{self._main(folder)} has rows of split '{split}', and data.{split} names a "
                    "file too"
                )
            parsed = parse_rows(records, columns, self.split if split is None else None, tell)
            if self.limit is not None:
                parsed = first(shuffled(parsed, seed), self.limit)
            for part, row in parsed:
                splits[split or part or "train"].append(row)
        return splits

    def _sources(self, folder: Path, tell: Tell) -> Iterator[tuple[str | None, Records]]:
        """Split and records of each source; None if the split column names the split."""
        if self.dataset is not None:
            yield from self._dataset(folder, self.dataset)
            return
        files: dict[Path, str] = {}
        for name in ("path", "train", "validation", "test"):
            source = getattr(self, name)
            if not isinstance(source, str):
                continue
            file = folder / source
            other = files.setdefault(file.resolve(), name)
            if other != name:
                raise DataError(
                    f"data.{name}: {file} is data.{other} as well; a score on rows that were used "
                    "before says nothing, so name another file or leave it out"
                )
            split = None if name == "path" else name
            yield split, read_records(file, tell, self.file_format)

    def _dataset(self, folder: Path, source: str) -> Iterator[tuple[str | None, Records]]:
        splits = hf_datasets.load(source, folder, self.subset, self.revision, self.streaming)
        given = {name: getattr(self, name) for name in SPLITS}
        for split, name in hf_datasets.choose(given, splits, source).items():
            is_only = len(splits) == 1
            yield (
                None if is_only else split,
                hf_datasets.read_split(splits[name], f"{source}:{name}"),
            )

    def _main(self, folder: Path) -> Path:
        """The file with the training rows."""
        return folder / str(self.train if self.path is None else self.path)


def _default_names() -> dict[str, str | None]:
    """Of each role of any task, the name of its column in a file if the recipe names none; None if
    that depends on the task."""
    names: dict[str, str | None] = {}
    for role, columns in column_roles().items():
        found = {column.default_name(role) for column in columns.values()}
        names[role] = found.pop() if len(found) == 1 else None
    return names


def parse_rows(
    records: Records, columns: Mapping[str, SourceColumn], split: str | None, tell: Tell = stop
) -> Iterator[tuple[str | None, Row]]:
    """Converts records to rows, each with its split; None if its record has no such column.

    Args:
        records: Where each stands, and its values.
        columns: Column of each role; every row must have all of them.
        split: Column of the split; None if there is none.
        tell: Called with the error of every row that is not valid. If it returns, the row is left
            out.
    """
    for where, record in records:
        try:
            row = Row(read_fields(record, columns, where), where)
            part = record.get(split) if split is not None else None
            if split in record and part not in SPLITS:
                raise DataError(f"{where}: split is {part!r}; expected {', '.join(SPLITS)}")
        except DataError as error:
            tell(error)
        else:
            yield part, row


def read_fields(
    record: Mapping[str, Any], columns: Mapping[str, SourceColumn], where: str
) -> dict[str, Any]:
    """Returns the checked values of a record by role.

    Raises:
        DataError: A column is missing, or its value is empty or of another kind.
    """
    for role, (name, kind) in columns.items():
        for column in (name,) if isinstance(name, str) else name:
            if column not in record:
                hint = did_you_mean(column, record)
                if kind.several_columns:
                    hint += f"; data.{role} may be a list of columns"
                raise DataError(f"{where}: there is no column '{column}' for {role}; {hint}")
    return {role: _value(record, column, where) for role, column in columns.items()}


def _value(record: Mapping[str, Any], column: SourceColumn, where: str) -> Any:
    if isinstance(column.name, str):
        return column.kind.check(record[column.name], f"{where}: column '{column.name}'")
    return column.kind.check({name: record[name] for name in column.name}, where)


def fingerprint(splits: Mapping[str, Sequence[Row]]) -> str:
    """sha256 of the rows of all splits, in order."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        for row in rows:
            digest.update(json.dumps([name, dict(row.fields)], sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"
