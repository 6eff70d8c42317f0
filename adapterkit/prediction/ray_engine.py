"""Jobs on a Ray cluster: a pool of actors answers the shards.

Ray Data starts a lost actor anew and gives its shard to another one. What an actor has written
before it was lost is replaced by the same part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from ..cluster.ray_cluster import RayCluster, enter
from .job_folder import PartRecord
from .shard_worker import Job, ShardWorker
from .shards import Shard


class RayEngine:
    """Runs the workers of a job on a Ray cluster.

    Args:
        cluster: The cluster.
    """

    def __init__(self, cluster: RayCluster) -> None:
        self._cluster = cluster

    def __call__(self, job: Job, shards: Sequence[Shard]) -> Iterator[PartRecord]:
        """Yields the record of each shard as soon as it is done.

        Raises:
            AdapterkitError: A worker cannot be started, or a part cannot be written.
        """
        cluster = self._cluster
        data = cluster.ray.data
        # A block of its own for each shard: a block is what is computed again.
        waiting = data.from_items([asdict(one) for one in shards], override_num_blocks=len(shards))
        records = waiting.map(
            _RayWorker,
            fn_constructor_args=(job, Path.cwd()),
            compute=data.ActorPoolStrategy(size=min(cluster.n_workers, len(shards))),
            num_cpus=cluster.worker_cpus,
        )
        with cluster.errors():
            for row in records.iter_rows():
                yield PartRecord(**json.loads(row["record"]))


class _RayWorker:
    """A `ShardWorker` as Ray Data calls it: from a dictionary to a dictionary.

    Args:
        job: The job.
        folder: Where relative paths of the job begin.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self._job = job
        self._folder = folder

    @cached_property
    def _worker(self) -> ShardWorker:
        """The worker, not made before the first shard: Ray prints the traceback of an error that an
        actor raises while it starts."""
        enter(self._folder)
        return ShardWorker(self._job)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"record": json.dumps(asdict(self._worker(Shard(**row))))}
