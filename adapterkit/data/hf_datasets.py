"""Data sets of the library `datasets`: saved folders, folders of data files, names on the hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean
from ..quiet import quiet_datasets

SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes into a folder of splits, or of rows without splits."""

NAMES = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val"),
    "test": ("test",),
}
"""Names of the splits in data sets."""

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)

Record = dict[str, Any]

log = logging.getLogger("adapterkit")


def load(
    source: str, folder: Path, subset: str | None, revision: str | None, streaming: bool
) -> dict[str, Any]:
    """Loads the splits of a data set by their names in it; rows without splits are `train`.

    Args:
        source: A folder, or a name on the hub.
        folder: Folder that a relative path starts from.
        subset: Name of a configuration.
        revision: Branch, tag or commit on the hub.
        streaming: Read the rows while they are used, instead of downloading all of them first.

    Raises:
        DataError: The data set does not exist, cannot be reached or cannot be read.
    """
    path = folder / source
    is_local = path.is_dir()
    if is_local and revision is not None:
        raise DataError(f"data.revision: {path} is a folder, which has none")
    if is_local and any((path / name).is_file() for name in SAVED):
        if subset is not None:
            raise DataError(f"data.subset: {path} was written by save_to_disk and has none")
        found = _load_saved(path)
    else:
        name = str(path) if is_local else _hub_name(source)
        found = _load_dataset(name, source, is_local, subset, revision, streaming)
    return dict(found) if isinstance(found, dict) else {"train": found}


def _load_saved(path: Path) -> Any:
    from datasets import load_from_disk

    try:
        # The rows are memory-mapped, so none is loaded before it is read.
        with quiet_datasets():
            found = load_from_disk(str(path)).with_format(None)
    except Exception as error:  # errors of datasets and of Arrow, and any that damaged JSON causes
        raise DataError(f"{path}: cannot be loaded as a data set ({_reason(error)})") from error
    return found


def _load_dataset(
    name: str,
    source: str,
    is_local: bool,
    subset: str | None,
    revision: str | None,
    streaming: bool,
) -> Any:
    from datasets import load_dataset

    try:
        with quiet_datasets():
            return load_dataset(name, subset, revision=revision, streaming=streaming)
    except Exception as error:  # as above, and errors of the hub's client and of the network
        what = "cannot be loaded" if is_local else "is no folder here, and the hub did not give it"
        raise DataError(f"data.dataset: '{source}' {what} ({_reason(error)})") from error


def _hub_name(source: str) -> str:
    """Checks a name on the hub.

    For the name of a format, such as csv, `datasets` would read any such files of the working
    folder.

    Raises:
        DataError: It is not a name, or is that of a format.
    """
    if not HUB_NAME.fullmatch(source):
        raise DataError(f"data.dataset: '{source}': there is no such folder")
    if "/" not in source and find_spec(f"datasets.packaged_modules.{source.partition('.')[0]}"):
        raise DataError(f"data.dataset: '{source}' is a format; name files by data.path")
    return source


def choose(given: Mapping[str, Any], splits: Mapping[str, Any], source: str) -> dict[str, str]:
    """Chooses the splits of a data set that are train, validation and test.

    Args:
        given: For train, validation and test the name of a split, a share, or None.
        splits: The data set's splits.
        source: Name of the data set in messages.

    Returns:
        Name of the data set's split by train, validation and test; without those it has none for.

    Raises:
        DataError: A split does not exist or is named twice, or there is none to train on.
    """
    named = {split: name for split, name in given.items() if isinstance(name, str)}
    for split, name in named.items():
        if name not in splits:
            raise DataError(
                f"data.{split}: '{source}' has no split '{name}'; {did_you_mean(name, splits)}"
            )
        first = next(other for other in named if named[other] == name)
        if first != split:
            raise DataError(
                f"data.{split}: the split '{name}' is data.{first} as well; a score on rows that "
                "were used before says nothing, so name another one or leave it out"
            )
    chosen = {}
    for split, name in given.items():
        # A split that is named for other rows is not taken for these as well.
        usual = [one for one in NAMES[split] if one in splits and one not in named.values()]
        if split in named:
            chosen[split] = named[split]
        elif name != 0 and usual:
            chosen[split] = usual[0]
    if "train" not in chosen:
        raise DataError(
            f"data.train: '{source}' has the splits {', '.join(splits)}; name the one to train on"
        )
    unread = [name for name in splits if name not in chosen.values()]
    if unread:
        log.info(f"{source}: splits that are not read: {', '.join(unread)}")
    return chosen


def read_split(rows: Any, where: str) -> Iterator[tuple[str, Record]]:
    """Yields where each row stands (`where:row`, from row 1) and its values, with names of classes.

    Raises:
        DataError: A row cannot be read.
    """
    with_names = class_namer(rows.features or {})
    number = 0
    try:
        with quiet_datasets():
            for number, record in enumerate(rows, start=1):
                yield f"{where}:{number}", with_names(record)
    except Exception as error:  # as above
        raise DataError(f"{where}:{number + 1}: cannot be read ({_reason(error)})") from error


def parquet_class_namer(schema: Any) -> Callable[[Record], Record]:
    """Returns the `class_namer` of a Parquet file, from the Arrow schema that `datasets` wrote."""
    if b"huggingface" not in (schema.metadata or {}):
        return _unchanged
    from datasets import Features

    return class_namer(Features.from_arrow_schema(schema))


def class_namer(features: Mapping[str, Any]) -> Callable[[Record], Record]:
    """Returns a function that replaces the class numbers of a row by the names of the classes."""
    kinds = {name: kind for name, kind in features.items() if _has_classes(kind)}
    if not kinds:
        return _unchanged
    return lambda row: {**row, **{name: _name(kind, row[name]) for name, kind in kinds.items()}}


def _unchanged(row: Record) -> Record:
    return row


def _parts(kind: Any) -> list[Any]:
    """The features inside a feature."""
    if isinstance(kind, dict):
        return list(kind.values())
    inner = getattr(kind, "feature", None)
    return [] if inner is None else [inner]


def _has_classes(kind: Any) -> bool:
    return hasattr(kind, "int2str") or any(_has_classes(part) for part in _parts(kind))


def _name(kind: Any, value: Any) -> Any:
    """A value with names in place of class numbers; None for -1, a label that is not published."""
    if value is None or not _has_classes(kind):
        return value
    if isinstance(kind, dict):
        return {key: _name(part, value[key]) for key, part in kind.items()}
    if hasattr(kind, "int2str"):
        return kind.int2str(value) if value >= 0 else None
    return [_name(kind.feature, item) for item in value]


def _reason(error: BaseException) -> str:
    """The first line of the message of an error's first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    message, name = str(error).strip(), type(error).__name__
    return f"{name}: {message.splitlines()[0]:.200}" if message else name
