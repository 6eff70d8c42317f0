"""A worker of a job: one backbone in memory, which answers shard after shard."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from ..adapter.references import backbone_name, find_folder
from ..adapter.store import Store
from ..backbone.load_options import LoadOptions
from ..backbone.model import Backbone
from ..data.requests import FaultyRow, RequestFile
from ..errors import AdapterkitError, DataError, UnavailableError
from ..inference.predictor import Predictor
from ..inference.progress_bar import progress_bar
from ..names import BASE
from .answers import write_answers
from .job_folder import JobFolder, PartRecord
from .prediction_rows import OutputColumns, PredictionStream
from .request_rows import RowOrFault, RowSurvey, assign_adapters, ignore
from .shards import Shard

log = logging.getLogger("adapterkit")

FIRST_ROWS = 1000
"""Rows of the first shard in which the job looks for an adapter."""


@dataclass(frozen=True)
class Job:
    """What all workers of a job must know. It is sent to other processes.

    Attributes:
        output: Folder of the answers, or its URL.
        store: Folder of the adapters, or its URL.
        references: The adapters that answer a row which names none; without any, every row must
            name one of the store.
        columns: Name of the column of each role.
        adapter_column: Column with the adapter of each row.
        prefix: Before the names of the columns that are added.
        backbone: The backbone; that of the first adapter if None.
        options: How the backbone is loaded.
        any_backbone: Accept adapters that were trained on other weights.
        ending: Format of the parts: `.jsonl`, `.json` or `.csv`.
    """

    output: str
    store: str = "adapters"
    references: Sequence[str] = ()
    columns: Mapping[str, str] = field(default_factory=lambda: {"text": "text"})
    adapter_column: str = "adapter"
    prefix: str = ""
    backbone: str | None = None
    options: LoadOptions = field(default_factory=LoadOptions)
    any_backbone: bool = False
    ending: str = ".jsonl"

    def requests(self, path: Path, name: str) -> RequestFile:
        """The requests in a file, which messages call by that name."""
        return RequestFile(path, self.columns, self.adapter_column, name)

    def named_in(self, shard: Shard) -> list[str]:
        """The adapters that the first rows of a shard name, without the plain backbone.

        Raises:
            DataError: It cannot be read.
        """
        with TemporaryDirectory() as folder:
            rows = self.requests(shard.copy(Path(folder)), shard.name).rows()
            return _named_in(islice(rows, FIRST_ROWS))


class ShardWorker:
    """Answers shards and writes their parts.

    The rows of a shard are read twice, so that they need not fit into memory: a table is one shard,
    whatever its size.

    Args:
        job: The job.

    Raises:
        AdapterkitError: The backbone or an adapter of the job cannot be loaded.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = JobFolder(job.output)
        self._store = Store(job.store)
        backbone = backbone_name(job.references, self._store, job.backbone)
        self._predictor = Predictor(Backbone.load_with(backbone, job.options))
        self._names: dict[str, str] = {BASE: BASE}
        self._loaded: dict[str, tuple[str, Path]] = {}  # reference and folder by name
        self._versions: dict[str, str] = {}
        self._faults: dict[str, AdapterkitError] = {}
        for reference in job.references:
            self._load(reference)
        self._everyone = [self._names[reference] for reference in job.references] or [BASE]
        # Rows may name these without the version. Of other adapters a name alone is the latest one.
        self._names |= {name: name for name in self._everyone}

    def __call__(self, shard: Shard) -> PartRecord:
        """Answers a shard, writes its part, and then its record.

        Raises:
            AdapterkitError: The part cannot be written.
        """
        began = time.perf_counter()
        with TemporaryDirectory() as folder:
            try:
                requests = self._job.requests(shard.copy(Path(folder)), shard.name)
                survey = RowSurvey.of(requests.rows(log.warning), lenient=True)
            except DataError as error:
                record = PartRecord(shard.number, error=str(error))
            else:
                part = Path(folder) / f"part{self._job.ending}"
                record = self._answer(shard, requests, survey, part)
        record = replace(record, state=shard.state, seconds=time.perf_counter() - began)
        self._folder.write_record(record)
        return record

    def _answer(
        self, shard: Shard, requests: RequestFile, survey: RowSurvey, file: Path
    ) -> PartRecord:
        for reference in survey.adapters:
            self._load_named(reference)
        known = map(self._checked, requests.rows(ignore))
        stream = PredictionStream(
            self._predictor,
            assign_adapters(known, self._names, self._everyone),
            explained=False,
            strict=False,
            bar=progress_bar(False),
            lenient=True,
        )
        columns = OutputColumns.beside(survey.columns, self._job.adapter_column, self._job.prefix)
        write_answers(file, map(columns.row, stream))
        self._folder.write_part(shard.number, file)
        used = self._versions.keys() & {*survey.adapters, *self._job.references}
        return PartRecord(
            shard.number,
            stream.n_rows,
            stream.n_faults,
            None if stream.first_fault is None else str(stream.first_fault),
            versions={reference: self._versions[reference] for reference in sorted(used)},
            columns=columns.names,
        )

    def _checked(self, row: RowOrFault) -> RowOrFault:
        """A row, or what is wrong with the adapter that it names."""
        if isinstance(row, FaultyRow) or row.adapter is None or row.adapter in self._names:
            return row
        error = self._faults[row.adapter]
        return FaultyRow(DataError(f"{row.where}: {error}"), row.columns)

    def _load_named(self, reference: str) -> None:
        """Loads an adapter that rows name, unless that was tried before.

        Raises:
            UnavailableError: The store cannot be reached now. The job ends, and can go on later.
        """
        if reference in self._names or reference in self._faults:
            return
        try:
            if self._job.references:
                given = ", ".join(self._job.references)
                raise DataError(f"the adapter '{reference}' is not among --adapter ({given})")
            self._load(reference)
        except UnavailableError:
            raise
        except AdapterkitError as error:
            self._faults[reference] = error

    def _load(self, reference: str) -> None:
        if reference == BASE:
            return
        folder = find_folder(reference, self._store)
        adapter = self._predictor.backbones.load_adapter(
            folder,
            any_backbone=self._job.any_backbone,
            on_top_of=self._store.root,
            check_signature=self._store.check_signature,
        )
        other, known = self._loaded.get(adapter.name, (reference, folder))
        if folder != known:
            raise DataError(
                f"'{other}' and '{reference}' are both named '{adapter.name}'; a job answers by "
                "one of them"
            )
        self._predictor.add(adapter, any_backbone=self._job.any_backbone)
        self._loaded[adapter.name] = (reference, folder)
        self._names[reference] = adapter.name
        version = _version_of(folder, self._store)
        if version is not None:
            self._versions[reference] = version


def pinned(reference: str, store: Store) -> str:
    """A reference to the version that a name of a store means now; another reference unchanged.

    Raises:
        AdapterkitError: There is no such adapter.
    """
    if reference == BASE:
        return reference
    return _version_of(find_folder(reference, store), store) or reference


def _version_of(folder: Path, store: Store) -> str | None:
    """`name@version` of a folder of a store; None for another folder."""
    if not folder.is_relative_to(store.root):
        return None
    inside = folder.relative_to(store.root)
    return f"{inside.parent.as_posix()}@{inside.name}"


def _named_in(rows: Iterable[RowOrFault]) -> list[str]:
    """The adapters that rows name, in their order, without the plain backbone."""
    named = (row.adapter for row in rows if not isinstance(row, FaultyRow))
    return list(dict.fromkeys(name for name in named if name is not None and name != BASE))
