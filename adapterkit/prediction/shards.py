"""Shards: the parts into which the input of a job is divided. One worker answers a whole shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.readers import FORMATS
from ..errors import DataError
from .file_systems import file_errors, file_system

SHARD_BYTES = 2**19
"""About how many bytes of a file a shard has: some thousand rows, which are answered again if a
worker is lost."""

MOST_SHARDS = 10_000
"""From so many shards on they are larger instead."""

LINE_FORMATS = (".jsonl", ".txt")
"""Formats in which every line is a row, so that a file can be divided at the end of any line."""

LOCAL = "file://"


@dataclass(frozen=True)
class Shard:
    """A part of a file.

    Attributes:
        number: Its number, from 0.
        url: The file, as fsspec names it.
        begin, end: The bytes from `begin` up to `end` of a file of lines, or these row groups of a
            Parquet file; both None for a whole file.
        state: Size of the file, and when it was changed or what else its store says of that.
            Another file in its place has another one.
    """

    number: int
    url: str
    begin: int | None = None
    end: int | None = None
    state: str | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        path = self.url.removeprefix(LOCAL)
        if self.begin is None:
            return path
        unit = "row group" if _suffix(path) == ".parquet" else "byte"
        return f"{path} (from {unit} {self.begin})"

    def copy(self, folder: Path) -> Path:
        """Copies its rows to a file of the same format.

        Args:
            folder: Where the file is written.

        Returns:
            The file; the file itself if the shard is a whole file on this machine.

        Raises:
            DataError: It cannot be read.
        """
        suffix = _suffix(self.url)
        target = folder / f"shard{suffix}"
        with file_errors(f"{self.name}: cannot be read"):
            if self.begin is None:
                return self._whole_file(target)
            with _opened(self.url) as file:
                if suffix == ".parquet":
                    _copy_row_groups(file, range(self.begin, self.end or 0), target)
                else:
                    file.seek(self.begin)
                    target.write_bytes(file.read((self.end or 0) - self.begin))
        return target

    def _whole_file(self, target: Path) -> Path:
        if self.url.startswith(LOCAL):
            return Path(self.url.removeprefix(LOCAL))
        files, path = file_system(self.url, self.url)
        files.get_file(path, str(target))
        return target


def find_shards(source: str, shard_bytes: int | None = None, output: str = "") -> list[Shard]:
    """Divides the files of a job.

    Files of lines are divided at line ends and Parquet files at row groups. A file of any other
    format is one shard, since a quoted value of a table may have line ends of its own.

    Args:
        source: A file, a folder, a pattern such as `part-*.parquet`, or an fsspec URL of these.
        shard_bytes: About how many bytes a shard has; by the size of all files if omitted, so that
            the same input always has the same shards.
        output: A folder whose files are none of the input.

    Returns:
        The shards, in the order of the names of their files.

    Raises:
        DataError: There is no such file, or no row in the files, or one of them has another format
            or cannot be read.
    """
    files, path = file_system(source, source)
    with file_errors(f"--input {source}: cannot be read"):
        paths = _paths(files, path, source, output)
        if shard_bytes is None:
            shard_bytes = max(SHARD_BYTES, sum(map(files.size, paths)) // MOST_SHARDS)
        parts = [part for one in paths for part in _parts(files, one, shard_bytes)]
    if not parts:
        raise DataError(f"--input {source}: there are no rows")
    return [Shard(number, *part) for number, part in enumerate(parts)]


def _state(info: Mapping[str, Any]) -> str:
    """The state of a file (`Shard`), from what fsspec knows of it; stores differ in the keys."""
    keys = ("size", "mtime", "ETag", "etag", "generation", "LastModified", "last_modified")
    return " ".join(str(info[key]) for key in keys if key in info)


def _paths(files: Any, path: str, source: str, output: str) -> list[str]:
    found = sorted(_matching(files, path))
    if output:
        others, folder = file_system(output, f"--output {output}")
        if others.protocol == files.protocol:
            found = [one for one in found if not PurePosixPath(one).is_relative_to(folder)]
    if not found:
        raise DataError(f"--input {source}: there is no such file")
    for one in found:
        if _suffix(one) not in FORMATS:
            *some, last = FORMATS
            raise DataError(f"{one}: expected a file ending in {', '.join(some)} or {last}")
    return found


def _matching(files: Any, path: str) -> Iterator[str]:
    """The files that a path means; those of a folder without what is hidden in it."""
    if files.isdir(path):
        for one in files.find(path):
            is_hidden = any(map(_is_hidden, one.removeprefix(path).split("/")))
            if _suffix(one) in FORMATS and not is_hidden:
                yield one
    else:
        for one in [path] if files.exists(path) else files.glob(path):
            if not _is_hidden(PurePosixPath(one).name):
                yield one


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _parts(
    files: Any, path: str, shard_bytes: int
) -> Iterator[tuple[str, int | None, int | None, str]]:
    """The shards of a file, without their numbers."""
    url, state = files.unstrip_protocol(path), _state(files.info(path))
    for begin, end in _ranges(url, shard_bytes):
        yield url, begin, end, state


def _ranges(url: str, shard_bytes: int) -> Iterator[tuple[int | None, int | None]]:
    """Begin and end of each shard of a file."""
    suffix = _suffix(url)
    if suffix in LINE_FORMATS:
        with _opened(url) as file:
            yield from _line_ranges(file, shard_bytes)
    elif suffix == ".parquet":
        with _opened(url) as file:
            yield from _row_group_ranges(file, url, shard_bytes)
    else:
        yield None, None


def _line_ranges(file: Any, shard_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of bytes that end with a line. Bytes without a row are left out."""
    begin, size = 0, file.seek(0, 2)
    while begin < size:
        file.seek(min(begin + shard_bytes, size) - 1)
        file.readline()
        end = file.tell()
        file.seek(begin)
        if file.read(end - begin).decode(errors="replace").strip():
            yield begin, end
        begin = end


def _row_group_ranges(file: Any, url: str, shard_bytes: int) -> Iterator[tuple[int, int]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        metadata = ParquetFile(file).metadata
    except (ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        name = url.removeprefix(LOCAL)
        raise DataError(f"{name}: not a Parquet file that can be read ({reason:.200})") from None
    begin, n_bytes = 0, 0
    for index in range(metadata.num_row_groups):
        n_bytes += metadata.row_group(index).total_byte_size
        if n_bytes >= shard_bytes or index == metadata.num_row_groups - 1:
            yield begin, index + 1
            begin, n_bytes = index + 1, 0


def _copy_row_groups(file: Any, groups: range, target: Path) -> None:
    from pyarrow.parquet import ParquetFile, write_table

    write_table(ParquetFile(file).read_row_groups(list(groups)), target)


def _opened(url: str) -> Any:
    files, path = file_system(url, url)
    return files.open(path, "rb")


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix
