"""Data sets that `datasets` loads: folders of `save_to_disk`, folders of data files, hub names."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean

SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` writes beside splits, or beside rows without any."""

NAMES = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val"),
    "test": ("test",),
}
"""What data sets call the splits."""

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)

Record = dict[str, Any]

log = logging.getLogger("adapterkit")


def load(
    source: str, folder: Path, subset: str | None, revision: str | None, streaming: bool
) -> dict[str, Any]:
    """The splits of a data set by their own names; one without splits is all `train`.

    Args:
        source: A folder, or a name on the hub.
        folder: What a relative path starts from.
        subset: Which of its configurations.
        revision: Branch, tag or commit on the hub.
        streaming: Read it while it is used, in place of downloading and preparing it first.

    Raises:
        DataError: It is not there, cannot be reached or cannot be read.
    """
    place = folder / source
    local = place.is_dir()
    if local and revision is not None:
        raise DataError(f"data.revision: {place} is a folder, which has none")
    if local and any((place / name).is_file() for name in SAVED):
        if subset is not None:
            raise DataError(f"data.subset: {place} was written by save_to_disk and has none")
        found = _saved(place, streaming)
    else:
        name = str(place) if local else _hub_name(source)
        found = _loaded(name, source, local, subset, revision, streaming)
    return dict(found) if isinstance(found, dict) else {"train": found}


def _saved(place: Path, streaming: bool) -> Any:
    from datasets import load_from_disk

    try:
        # Nothing is loaded before it is read: the rows lie memory-mapped.
        with _quiet():
            found = load_from_disk(str(place)).with_format(None)
    except Exception as error:  # a family of its own, Arrow's, and whatever damaged JSON leads to
        raise DataError(f"{place}: cannot be loaded as a data set ({_reason(error)})") from error
    return found


def _loaded(
    name: str, source: str, local: bool, subset: str | None, revision: str | None, streaming: bool
) -> Any:
    from datasets import load_dataset

    try:
        with _quiet():
            return load_dataset(name, subset, revision=revision, streaming=streaming)
    except Exception as error:  # as above, and the hub's client and its transport
        said = "cannot be loaded" if local else "is no folder here, and the hub did not give it"
        raise DataError(f"data.dataset: '{source}' {said} ({_reason(error)})") from error


def _hub_name(source: str) -> str:
    """The name, where it can be one.

    Given a format's name, such as csv, `datasets` would read whatever lies in the working folder.
    """
    if not HUB_NAME.fullmatch(source):
        raise DataError(f"data.dataset: '{source}': there is no such folder")
    if "/" not in source and find_spec(f"datasets.packaged_modules.{source.partition('.')[0]}"):
        raise DataError(f"data.dataset: '{source}' is a format; name files by data.path")
    return source


def choose(given: Mapping[str, Any], there: Mapping[str, Any], source: str) -> dict[str, str]:
    """Which of a data set's splits is which.

    Args:
        given: For train, validation and test the name of a split, a share, or None.
        there: The data set's splits.
        source: What messages call it.

    Raises:
        DataError: A split is not there, or none is to be trained on.
    """
    chosen = {}
    for split, name in given.items():
        if isinstance(name, str):
            if name not in there:
                raise DataError(
                    f"data.{split}: '{source}' has no split '{name}'; {did_you_mean(name, there)}"
                )
            chosen[split] = name
        elif name != 0:
            usual = [usual for usual in NAMES[split] if usual in there]
            chosen |= {split: usual[0]} if usual else {}
    if "train" not in chosen:
        raise DataError(
            f"data.train: '{source}' has the splits {', '.join(there)}; name the one to train on"
        )
    left = [name for name in there if name not in chosen.values()]
    if left:
        log.info(f"{source}: splits that are not read: {', '.join(left)}")
    return chosen


def read_split(rows: Any, where: str) -> Iterator[tuple[str, Record]]:
    """Place (`where:row`, rows numbered from 1) and values of every row, classes by their names.

    Raises:
        DataError: The data set breaks off.
    """
    label = _labeller(rows.features or {})
    number = 0
    try:
        with _quiet():
            for number, record in enumerate(rows, start=1):
                yield f"{where}:{number}", label(record)
    except Exception as error:  # as above
        raise DataError(f"{where}:{number + 1}: cannot be read ({_reason(error)})") from error


def named(schema: Any) -> Callable[[Record], Record]:
    """Puts names to the classes of a Parquet file that `datasets` wrote, by its Arrow schema."""
    if b"huggingface" not in (schema.metadata or {}):
        return _as_it_is
    from datasets import Features

    return _labeller(Features.from_arrow_schema(schema))


def _labeller(features: Mapping[str, Any]) -> Callable[[Record], Record]:
    kinds = {name: kind for name, kind in features.items() if _has_classes(kind)}
    if not kinds:
        return _as_it_is
    return lambda row: {**row, **{name: _name(kind, row[name]) for name, kind in kinds.items()}}


def _as_it_is(row: Record) -> Record:
    return row


def _parts(kind: Any) -> list[Any]:
    """What a feature is made of."""
    if isinstance(kind, dict):
        return list(kind.values())
    inner = getattr(kind, "feature", None)
    return [] if inner is None else [inner]


def _has_classes(kind: Any) -> bool:
    return hasattr(kind, "int2str") or any(_has_classes(part) for part in _parts(kind))


def _name(kind: Any, value: Any) -> Any:
    """A value with names in place of classes; -1, a label that is kept secret, is None."""
    if value is None or not _has_classes(kind):
        return value
    if isinstance(kind, dict):
        return {key: _name(part, value[key]) for key, part in kind.items()}
    if hasattr(kind, "int2str"):
        return kind.int2str(value) if value >= 0 else None
    return [_name(kind.feature, item) for item in value]


def _reason(error: BaseException) -> str:
    """The first line of what lies behind an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = str(error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0]:.200}" if said else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's own log and, away from a terminal, its bars out of our messages."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars
    from datasets.utils import enable_progress_bars as enable
    from datasets.utils import logging as chatter

    verbosity, dark = chatter.get_verbosity(), are_progress_bars_disabled()
    chatter.set_verbosity(chatter.CRITICAL)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        chatter.set_verbosity(verbosity)
        if not dark:
            enable()
