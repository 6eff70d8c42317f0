"""The connection to a Ray cluster."""

from __future__ import annotations

import sys

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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (TRACEBACK, "out/part-00000.jsonl: cannot be written (No space left on device)"),
        ("The worker died.\nIt was killed.", "The worker died."),
    ],
)
def test_an_error_of_a_worker_is_one_line(text: str, line: str) -> None:
    assert cause_of(text) == line
