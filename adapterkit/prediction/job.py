"""A job: the rows of many files are answered once each, by workers that may be lost."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..adapter.references import backbone_name
from ..adapter.store import Store
from ..errors import DataError
from ..inference.progress_bar import progress_bar
from .job_folder import JobFolder, PartRecord
from .shard_worker import Job, ShardWorker, pinned
from .shards import Shard, find_shards

log = logging.getLogger("adapterkit")

Engine = Callable[[Job, Sequence[Shard]], Iterable[PartRecord]]
"""Answers shards with the workers of a job; the records come in any order."""


def in_this_process(job: Job, shards: Sequence[Shard]) -> Iterator[PartRecord]:
    """The engine with a single worker, which is this process."""
    return map(ShardWorker(job), shards)


def run_job(job: Job, source: str, engine: Engine) -> dict[int, PartRecord]:
    """Answers all rows of some files; a job that was interrupted goes on. Parts of a file that has
    changed since then are answered again.

    Args:
        job: The job. Its adapters are pinned to the versions that their names mean now.
        source: Files, as `find_shards` takes them. Those of the output are none of them.
        engine: Runs the workers.

    Returns:
        The record of each shard, by number.

    Raises:
        DataError: The input cannot be read, or the output folder belongs to another job; or an
            adapter that rows name was published again while the job ran, or a column of the answers
            would have two names.
        AdapterkitError: An adapter or the backbone cannot be loaded.
    """
    shards = find_shards(source, output=job.output)
    store = Store(job.store)
    job = replace(job, references=[pinned(reference, store) for reference in job.references])
    first = job.references or job.named_in(shards[0])[:1]
    job = replace(job, backbone=backbone_name(first, store, job.backbone))
    folder, facts = JobFolder(job.output), job_facts(job, shards)
    records = _unchanged(folder.begin(facts), shards)
    if records:
        log.info(f"{job.output}: {len(records)} of {len(shards)} parts are done already")
    left = [shard for shard in shards if shard.number not in records]
    names: dict[str, str] = {}
    for record in records.values():
        _check_columns(names, record)
    with progress_bar(True, total=len(shards), initial=len(records), unit="part") as bar:
        for record in engine(job, left) if left else ():
            records[record.shard] = record
            _check_columns(names, record)
            bar.update()
    lost = [shard.name for shard in shards if shard.number not in records]
    if lost:
        raise DataError(f"{lost[0]}: was not answered; start the job again, and it goes on")
    _check_versions(records.values())
    folder.end(facts, records.values())
    return records


def _unchanged(records: Mapping[int, PartRecord], shards: Sequence[Shard]) -> dict[int, PartRecord]:
    """The records of shards whose files are as they were; the others are answered again."""
    states = {shard.number: shard.state for shard in shards}
    kept = {n: one for n, one in records.items() if one.state in (None, states[n])}
    if len(kept) < len(records):
        log.info(f"{len(records) - len(kept)} parts are answered again: their files have changed")
    return kept


def job_facts(job: Job, shards: Sequence[Shard]) -> dict[str, Any]:
    """What makes a job this one, as JSON has it: with other facts its answers would differ."""
    facts = asdict(job) | {"references": list(job.references), "columns": dict(job.columns)}
    del facts["output"]
    return {**facts, "input": [[shard.url, shard.begin, shard.end] for shard in shards]}


def _check_columns(names: dict[str, str], record: PartRecord) -> None:
    """Refuses a column of the answers that has another name in another part, as it has if only some
    rows of the input have a column that is called like it.

    Args:
        names: Name of each column in the parts so far, by its own name. The record adds to it.
        record: The record of the part.

    Raises:
        DataError: A column has two names.
    """
    for key, name in record.columns.items():
        other = names.setdefault(key, name)
        if other != name:
            raise DataError(
                f"only some rows of the input have a column '{key}', so the answers would be in "
                f"'{other}' and in '{name}'; give a --prefix, and choose another output"
            )


def _check_versions(records: Iterable[PartRecord]) -> None:
    """Refuses answers of two versions of an adapter.

    Raises:
        DataError: An adapter was published again while the job ran, or rows name two versions.
    """
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        for reference, version in record.versions.items():
            found[version.partition("@")[0]][version] = reference
    for references in found.values():
        if len(references) == 1:
            continue
        versions = " and ".join(sorted(references))
        first, *others = sorted(set(references.values()))
        if not others:
            raise DataError(
                f"'{first}' was published again while the job ran, so its rows have answers of "
                f"{versions}; name one version, and choose another output"
            )
        raise DataError(
            f"rows have answers of {versions}, and a job has one version of an adapter; answer "
            "them in two jobs"
        )
