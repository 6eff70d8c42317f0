"""A Ray cluster, on this machine or on many, and what goes wrong on it as errors of ours.

Ray (https://docs.ray.io) is optional: `pip install 'adapterkit[ray]'`. What runs on a worker begins
in the folder in which the command was started, if the worker's machine has that folder, so relative
paths mean the same there.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..errors import AdapterkitError

T = TypeVar("T")
R = TypeVar("R")

RAISED = re.compile(r"^(?:\w+\.)*\w*Error: (.+)$", re.MULTILINE)
"""The line of a traceback that has the message of the exception."""

OURS = re.compile(r"^adapterkit\.errors\.\w+: (.+)$", re.MULTILINE)
"""The same of an error of ours, which says best what is wrong."""

ADDRESS = re.compile(r"(?P<host>[^/:\s]+|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})")
"""The address of a cluster as host and port. Others, such as `auto`, are found by Ray."""

CONNECT_SECONDS = 10.0
"""Most seconds until a cluster accepts a connection."""

MOST_RETRIES = 3
"""How often work is done again whose worker was lost."""


class RayCluster:
    """A connection to a cluster.

    Args:
        n_workers: Number of workers; one for each `worker_cpus` of the cluster if None.
        worker_cpus: CPUs, and threads, of a worker.
        address: The cluster; if None, that of `RAY_ADDRESS`, else one on this machine is started.
        log_to_driver: Whether what workers write is repeated on standard error.

    Attributes:
        ray: The module.
        cpus, gpus: Number of CPUs and GPUs of the cluster at present.
        may_grow: Whether it may get more of them, as a cluster that has an address.
        log_folder: Folder of what workers write, on each machine; empty if it is not known.

    Raises:
        AdapterkitError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self,
        n_workers: int | None = None,
        worker_cpus: int = 1,
        address: str | None = None,
        *,
        log_to_driver: bool = True,
    ) -> None:
        self.ray = _import_ray()
        self.worker_cpus = worker_cpus
        named = address or os.environ.get("RAY_ADDRESS")
        self.may_grow = named not in (None, "", "local")
        self.log_folder = ""
        if not self.ray.is_initialized():
            _check_listens(named or "")
            try:
                context = self.ray.init(
                    address,
                    include_dashboard=False,
                    logging_level="ERROR",
                    log_to_driver=log_to_driver,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise AdapterkitError(f"--engine ray: {error}") from None
            self.log_folder = f"{context.address_info['session_dir']}/logs"
        resources = self.ray.cluster_resources()
        self.cpus, self.gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        self.n_workers = n_workers or max(1, self.cpus // worker_cpus)

    @property
    def serve(self) -> Any:
        """The module of Ray Serve.

        Raises:
            AdapterkitError: It is not installed.
        """
        try:
            import ray.serve
        except ImportError:
            message = "--engine ray needs Ray Serve: pip install 'adapterkit[ray]'"
            raise AdapterkitError(message) from None
        return ray.serve

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Inside, an error of a worker becomes one of ours, in one line.

        Raises:
            AdapterkitError: A worker failed, or was lost too often.
        """
        try:
            yield
        except self.ray.exceptions.RayError as error:
            raise AdapterkitError(f"--engine ray: {cause_of(str(error))}") from None

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Does some work for each item on a worker of its own.

        Work whose worker was lost is done again, so it must be able to go on or to begin anew.

        Args:
            work: A function of a module.
            items: Its arguments.

        Yields:
            The results, as they come.

        Raises:
            AdapterkitError: The work failed, or its worker was lost too often.
        """
        remote = self.ray.remote(num_cpus=self.worker_cpus, max_retries=MOST_RETRIES)(_in_folder)
        waiting = [remote.remote(Path.cwd(), work, item) for item in items]
        with self.errors():
            while waiting:
                done, waiting = self.ray.wait(waiting)
                yield from self.ray.get(done)


def _check_listens(address: str) -> None:
    """Checks that a cluster listens at an address. Ray tries it for many minutes, with a warning of
    its own every few seconds.

    Raises:
        AdapterkitError: Nothing listens there.
    """
    found = ADDRESS.fullmatch(address)
    if found is None:
        return
    try:
        place = found["host"].strip("[]"), int(found["port"])
        socket.create_connection(place, CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise AdapterkitError(
            f"--engine ray: no cluster answers at {address} ({error}); is RAY_ADDRESS right, and "
            "does the cluster run (`ray start --head`)?"
        ) from None


def enter(folder: Path) -> None:
    """Makes a folder the working folder of a worker, if its machine has it."""
    if folder.is_dir():
        os.chdir(folder)


def _in_folder(folder: Path, work: Callable[[T], R], item: T) -> R:
    enter(folder)
    return work(item)


def _import_ray() -> Any:
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
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs it raises as well
    ray.data.DataContext.get_current().enable_progress_bars = False  # commands have their own
    return ray


def cause_of(message: str) -> str:
    """What happened in a worker.

    Args:
        message: That of Ray's error, which has the traceback of the worker.
    """
    raised: list[str] = OURS.findall(message) or RAISED.findall(message)
    return (raised or message.strip().splitlines() or ["no reason is known"])[0]
