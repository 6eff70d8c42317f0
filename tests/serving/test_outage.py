"""A server whose bucket cannot be reached: adapters in memory go on answering."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import httpx2
import pytest

from adapterkit.adapter import remote_store as remote
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.serving.engine import adapter_cache
from helpers.adapters import MakeAdapter
from helpers.server import serving

TEXT = "where is my parcel"


@pytest.fixture
def bucket(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A bucket with two adapters, whose changes are seen without delay."""
    monkeypatch.setattr(remote, "FRESH", 0.0)
    url = f"memory://{tmp_path.name}/bucket"
    for seed, name in enumerate(("acme/used", "acme/other")):
        Store(url, tmp_path / "here").publish(
            make_adapter(tiny, name=name, seed=seed), tiny.geometry
        )
    return url


class Outage:
    """Has every read of the memory file system fail or wait, until it ends.

    Args:
        reading: What a read does at first.
    """

    def __init__(self, patch: pytest.MonkeyPatch, reading: Callable[[], object]) -> None:
        self.is_over = threading.Event()
        files = type(fsspec.filesystem("memory"))
        for name in ("cat_file", "find", "ls", "isfile"):
            patch.setattr(files, name, self._wrapped(getattr(files, name), reading))

    def _wrapped(self, method: Callable[..., Any], reading: Callable[[], object]) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if not self.is_over.is_set():
                reading()
            return method(*arguments, **options)

        return call


@pytest.fixture
def client(bucket: str, tiny_folder: Path, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A client of a server of the bucket, which has answered with the first adapter."""
    with (
        serving(bucket, tiny_folder, cache=str(tmp_path / "there")) as url,
        httpx2.Client(base_url=url, timeout=20) as client,
    ):
        assert predict(client, "acme/used").status_code == 200
        yield client


def predict(client: httpx2.Client, name: str) -> httpx2.Response:
    return client.post("/predict", json={"adapter_id": name, "inputs": TEXT})


def check_outage(client: httpx2.Client, outage: Outage) -> None:
    """The adapter in memory answers as before; the other is refused until the outage is over."""
    for _ in range(3):
        assert predict(client, "acme/used").status_code == 200
        refused = predict(client, "acme/other")
        assert refused.status_code == 503
        assert refused.json()["error"] == "the store cannot be reached; try again later"
        assert refused.headers["retry-after"] == "1"
    outage.is_over.set()
    assert predict(client, "acme/other").status_code == 200
    assert predict(client, "acme/used").status_code == 200


def test_a_bucket_that_refuses_connections(
    bucket: str,
    client: httpx2.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise ConnectionError("refused")

    check_outage(client, Outage(monkeypatch, fail))
    reason = f"{bucket}: cannot be reached (refused)"
    assert set(caplog.messages) >= {
        reason,
        f"{reason}; only adapters that were used before can be used",
        f"{bucket}: can be reached again",
    }


def test_a_bucket_that_does_not_answer(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_cache, "PATIENCE", 0.05)
    monkeypatch.setattr(adapter_cache, "TIMEOUT", 0.2)
    outage = Outage(monkeypatch, lambda: outage.is_over.wait(20))
    check_outage(client, outage)
