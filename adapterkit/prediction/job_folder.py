"""The output folder of a job: a part for each shard, a record of each part, and the manifest.

```text
answers/
  _manifest.json         what the job is, and its totals once it has ended
  _records/00000.json    written after the part: the shard is done
  part-00000.jsonl       the answers to the rows of the shard, in their order
```

A part is written whole or not at all and replaces an earlier one, so a shard that is answered a
second time, after its worker was lost, still gives every row one answer. Programs that read folders
of parts skip names that begin with `_`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..atomic import write_file
from ..errors import DataError
from .file_systems import file_errors, file_system

MANIFEST = "_manifest.json"
RECORDS = "_records"

CHUNK = 2**20
"""Bytes of a part that are in memory at the same time."""


@dataclass(frozen=True)
class PartRecord:
    """What is known of a part.

    Attributes:
        shard: Number of its shard.
        n_rows, n_faults: Number of rows, and of those that have an error in place of an answer.
        first_fault: What is wrong with the first of them.
        error: Why no row of the shard could be read; there is no part then.
        versions: Version of every adapter of the store that answered, by reference.
        columns: Name in the part of each column that was added, by its own name.
        seconds: Time that it took.
        state: What the file of the shard was (`Shard`); None if it is not known.
    """

    shard: int
    n_rows: int = 0
    n_faults: int = 0
    first_fault: str | None = None
    error: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    state: str | None = None


class JobFolder:
    """A folder of answers.

    Args:
        url: A folder, or an fsspec URL of one.

    Raises:
        DataError: The protocol of the URL is not known, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root = file_system(url, f"--output {url}")
        self._is_local = "file" in self._files.protocol

    def begin(self, facts: Mapping[str, Any]) -> dict[int, PartRecord]:
        """Begins a job, or goes on with it.

        Args:
            facts: What the job is, as JSON has it.

        Returns:
            The records of the parts that are there, by shard, without those that have an error.

        Raises:
            DataError: The folder has other files, or the answers of another job; or it cannot be
                written.
        """
        before = self._read(MANIFEST)
        if before is None:
            self._check_empty()
            self._write(MANIFEST, {"job": facts})
            return {}
        changed = [key for key in facts if before.get("job", {}).get(key) != facts[key]]
        if changed:
            raise DataError(
                f"--output {self.url}: has the answers of another job, whose "
                f"{' and '.join(changed)} differ; choose another folder"
            )
        return {number: one for number, one in self.records().items() if one.error is None}

    def records(self) -> dict[int, PartRecord]:
        """The records of all parts, by shard."""
        with file_errors(f"{self.url}/{RECORDS}: cannot be read"):
            paths = self._files.find(posixpath.join(self._root, RECORDS))
            contents = [self._files.cat_file(path) for path in paths if path.endswith(".json")]
            found = [PartRecord(**json.loads(content)) for content in contents]
        return {one.shard: one for one in found}

    def write_part(self, shard: int, file: Path) -> None:
        """Takes a file of answers as the part of a shard.

        Raises:
            DataError: It cannot be written.
        """
        name = f"part-{shard:05}{file.suffix}"
        with self._writing(name):
            if self._is_local:
                with file.open("rb") as content:
                    write_file(Path(self._root, name), iter(partial(content.read, CHUNK), b""))
            else:
                self._files.put_file(str(file), posixpath.join(self._root, name))

    def write_record(self, record: PartRecord) -> None:
        """Writes the record of a part, which must be there.

        Raises:
            DataError: It cannot be written.
        """
        self._write(posixpath.join(RECORDS, f"{record.shard:05}.json"), asdict(record))

    def end(self, facts: Mapping[str, Any], records: Iterable[PartRecord]) -> None:
        """Writes the totals of a job whose shards are all done.

        Raises:
            DataError: They cannot be written.
        """
        known = list(records)
        totals = {
            "parts": sum(one.error is None for one in known),
            "rows": sum(one.n_rows for one in known),
            "faults": sum(one.n_faults for one in known),
            "errors": [one.error for one in known if one.error is not None],
        }
        self._write(MANIFEST, {"job": facts, "totals": totals})

    def _check_empty(self) -> None:
        with file_errors(f"--output {self.url}: cannot be read"):
            has_files = self._files.exists(self._root) and bool(self._files.find(self._root))
        if has_files:
            raise DataError(
                f"--output {self.url}: has files that no job wrote; choose an empty or a new folder"
            )

    def _read(self, name: str) -> Any:
        with file_errors(f"{self.url}/{name}: cannot be read"), suppress(FileNotFoundError):
            return json.loads(self._files.cat_file(posixpath.join(self._root, name)))
        return None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        data = json.dumps(content, ensure_ascii=False, indent=1).encode()
        path = posixpath.join(self._root, name)
        with self._writing(name):
            if self._is_local:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                write_file(Path(path), data)
            else:
                self._files.pipe_file(path, data)

    def _writing(self, name: str) -> AbstractContextManager[None]:
        return file_errors(f"{self.url}/{name}: cannot be written")
