"""The connection to a Ray cluster."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from adapterkit.cluster.ray_cluster import RayCluster, cause_of
from adapterkit.errors import AdapterkitError

TRACEBACK = """ray::MapWorker(Map(_RayWorker)).submit() (pid=1, ip=192.0.2.2)
  File "job_folder.py", line 118, in write_part
    raise self._unwritten(name, error) from None
adapterkit.errors.DataError: out/part-00000.jsonl: cannot be written (No space left on device)

The above exception was the direct cause of the following exception:
ray.exceptions.UserCodeException: UDF failed to process a data block.
"""


def test_a_machine_without_ray_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AdapterkitError, match=r"^--engine ray needs Ray: pip install 'adapterkit"):
        RayCluster()


class FakeRay:
    """Ray without a cluster.

    Args:
        error: What `init` raises, if anything.
    """

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.data = SimpleNamespace(DataContext=SimpleNamespace(get_current=SimpleNamespace))

    def is_initialized(self) -> bool:
        return self.error is None

    def init(self, *_: Any, **__: Any) -> None:
        assert self.error is not None
        raise self.error

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


def fake(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)


@pytest.mark.parametrize(
    "error", [ConnectionError("no such cluster"), RuntimeError("Version mismatch: Python 3.9")]
)
def test_a_cluster_that_cannot_be_joined_is_an_error_of_the_user(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, FakeRay(error))
    with pytest.raises(AdapterkitError, match=f"^--engine ray: {error}$"):
        RayCluster()


def test_a_cluster_that_does_not_listen_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeRay(AssertionError("Ray would try for minutes")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(AssertionError):
            RayCluster(address=address)
    for closed in (address, "127.0.0.1:99999"):
        monkeypatch.setenv("RAY_ADDRESS", closed)
        with pytest.raises(
            AdapterkitError, match=f"^--engine ray: no cluster answers at {closed} "
        ):
            RayCluster()


@pytest.mark.parametrize(
    ("address", "may_grow"), [(None, False), ("", False), ("local", False), ("10.0.0.1:6379", True)]
)
def test_only_a_named_cluster_may_grow(
    address: str | None, may_grow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, FakeRay())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert RayCluster().may_grow is may_grow


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (TRACEBACK, "out/part-00000.jsonl: cannot be written (No space left on device)"),
        ("The worker died.\nIt was killed.", "The worker died."),
    ],
)
def test_an_error_of_a_worker_is_one_line(text: str, line: str) -> None:
    assert cause_of(text) == line
