"""Jobs on a Ray cluster: a pool of actors answers the shards.

Ray Data starts a lost actor anew and gives its shard to another one. What an actor has written
before it was lost is replaced by the same part.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import AdapterkitError
from .job_folder import PartRecord
from .shard_worker import Job, ShardWorker
from .shards import Shard

RAISED = re.compile(r"^(?:\w+\.)*\w*Error: (.+)$", re.MULTILINE)
"""The line of a traceback that has the message of the exception."""


class RayEngine:
    """Runs the workers of a job on a Ray cluster.

    Args:
        n_workers: Number of workers; one for each `worker_cpus` of the cluster if None.
        worker_cpus: CPUs, and threads, of a worker.
        address: The cluster; if None, that of `RAY_ADDRESS`, else one on this machine is started.

    Raises:
        AdapterkitError: Ray is not installed.
    """

    def __init__(
        self, n_workers: int | None = None, worker_cpus: int = 1, address: str | None = None
    ) -> None:
        import_ray()
        self._n_workers = n_workers
        self._worker_cpus = worker_cpus
        self._address = address

    def __call__(self, job: Job, shards: Sequence[Shard]) -> Iterator[PartRecord]:
        """Yields the record of each shard as soon as it is done.

        Raises:
            AdapterkitError: The cluster cannot be reached, or a worker cannot be started.
        """
        ray = import_ray()
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        if not ray.is_initialized():
            try:
                ray.init(self._address, include_dashboard=False, logging_level="ERROR")
            except (ConnectionError, ValueError) as error:
                raise AdapterkitError(f"--engine ray: {error}") from None
        cpus = int(ray.cluster_resources().get("CPU", 1))
        n_workers = min(self._n_workers or max(1, cpus // self._worker_cpus), len(shards))
        ray.data.DataContext.get_current().enable_progress_bars = False  # there is one bar already
        # A block of its own for each shard: a block is what is computed again.
        shards_of_job = ray.data.from_items(
            [asdict(shard) for shard in shards], override_num_blocks=len(shards)
        )

        records = shards_of_job.map(
            _RayWorker,
            fn_constructor_args=(job, Path.cwd()),
            compute=ray.data.ActorPoolStrategy(size=n_workers),
            num_cpus=self._worker_cpus,
        )
        try:
            for row in records.iter_rows():
                yield PartRecord(**json.loads(row["record"]))
        except ray.exceptions.RayError as error:
            raise AdapterkitError(f"--engine ray: {_cause(error)}") from None


class _RayWorker:
    """A `ShardWorker` as Ray Data calls it: from a dictionary to a dictionary.

    Args:
        job: The job.
        folder: Where relative paths of the job begin, if this machine has that folder.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        if folder.is_dir():
            os.chdir(folder)
        self._worker = ShardWorker(job)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"record": json.dumps(asdict(self._worker(Shard(**row))))}


def import_ray() -> Any:
    """Ray, with Ray Data. It sends no usage statistics unless `RAY_USAGE_STATS_ENABLED` says so.

    Raises:
        AdapterkitError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise AdapterkitError("--engine ray needs Ray: pip install 'adapterkit[ray]'") from None
    return ray


def _cause(error: Exception) -> str:
    """What happened in a worker: Ray's error has its traceback as text."""
    raised = RAISED.findall(str(error))
    return raised[0] if raised else str(error).strip().splitlines()[0]
