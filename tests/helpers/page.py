"""The page at `/`: a store with an adapter for each view, a server of it, and steps in it."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import uvicorn
from starlette.types import ASGIApp

from adapterkit.adapter.adapter import Adapter, MemberWeights
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.lanes import WorkerLanes
from adapterkit.serving.app import make_app
from adapterkit.serving.engine.adapter_cache import AdapterCache
from adapterkit.serving.engine.engine import Engine
from adapterkit.serving.keys.api_keys import Keys
from adapterkit.serving.metrics.metrics import Metrics
from adapterkit.serving.service import Service
from adapterkit.serving.serving_limits import ServingLimits
from adapterkit.tasks.base import Task, tasks
from helpers.adapters import MakeAdapter

if TYPE_CHECKING:
    from playwright.sync_api import Page

EVIL = "<img src=x onerror=\"document.title='broken'\">"
KEY = "ak-of-acme"
MANY = 130
"""Number of adapters of the tenant `many`: more than one page of the list."""

OTHERS = 10
"""Number of the other adapters."""


def with_task(adapter: Adapter, kind: str, **settings: Any) -> Adapter:
    """The adapter with another task and a random head for it."""
    task: Task = tasks()[kind](**settings)
    generator = torch.Generator().manual_seed(1)
    shapes = task.head_shapes(32)
    head = {name: torch.randn(s, generator=generator) for name, s in shapes.items()}
    return replace(adapter, task=task, head=head)


def fill_store(root: Path, tiny: Backbone, make_adapter: MakeAdapter) -> None:
    """Publishes an adapter for each way to show an answer."""
    store = Store(root)

    def publish(adapter: Adapter) -> None:
        store.publish(adapter, tiny.geometry)

    publish(make_adapter(tiny, name="acme/intent", labels=("close", EVIL, "银行")))
    latest = make_adapter(tiny, name="acme/intent", labels=("close", EVIL, "银行"), seed=2)
    pairs = [[1.0, 1.2], [2.0, 1.9], [3.0, 3.3]]
    record = {"rows": {"test": 60}, "report": {"split": "test", "numbers": pairs}}
    publish(replace(latest, metrics={"test": {"accuracy": 0.967}}, training=record))
    store.alias("acme/intent", "stable", 1)
    names = with_task(make_adapter(tiny, name="acme/names"), "tagging", labels=("O", f"B-{EVIL}"))
    names.head["classifier.weight"].zero_()
    names.head["classifier.bias"].copy_(torch.tensor([0.0, 3.0]))  # every word is an entity
    publish(names)
    answers = make_adapter(tiny, name="acme/answers", method="bottleneck")
    publish(with_task(answers, "question_answering", unanswerable=False))
    summary = make_adapter(tiny, name="acme/summary")
    publish(with_task(summary, "summarisation", sentences=2))
    publish(with_task(make_adapter(tiny, name="acme/vectors"), "embedding", pooling="mean"))
    others: dict[str, dict[str, Any]] = {
        "multi_label": {"labels": ("price", "service"), "threshold": 1e-9},
        "regression": {"center": 2.5, "spread": 1.0, "minimum": 0.0, "maximum": 5.0},
        "multiple_choice": {},
        "relation": {"labels": ("owns", "none")},
    }
    for kind, settings in others.items():
        adapter = make_adapter(tiny, name=f"globex/{kind}", method="prefix", num_virtual_tokens=2)
        made = with_task(adapter, kind, pooling="mean", **settings)
        twin = (MemberWeights(made.tensors, made.head),) if kind == "regression" else ()
        publish(replace(made, extra_members=twin))
    pair = make_adapter(tiny, name="globex/pairs", labels=("same", "other"))
    publish(replace(pair, training={"recipe": {"data": {"text_pair": "b"}}}))
    publish(make_adapter(tiny, name="many/Task-000", r=1))
    for n in range(1, MANY):
        shutil.copytree(root / "many/Task-000", root / f"many/Task-{n:03}")


@contextmanager
def served(
    root: Path, backbone: Backbone, keys: Keys | None = None, prefix: str = ""
) -> Iterator[str]:
    """Runs a server of a store in a thread; yields its URL.

    Args:
        root: The store.
        backbone: The backbone.
        keys: The known callers.
        prefix: Path below which a proxy has the server; it passes the rest of a path on.
    """
    metrics = Metrics()
    cache = AdapterCache(Store(root), backbone, 10**8, 10**8)
    engine = Engine(backbone, 1024, 100_000, WorkerLanes(1, 1), observer=metrics)
    metrics.observe(engine, cache)
    service = Service(cache, engine, keys, metrics, ServingLimits())
    config = uvicorn.Config(_below(prefix, make_app(service)), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}{prefix}"
        finally:
            server.should_exit = True
            thread.join()


def _below(prefix: str, app: ASGIApp) -> ASGIApp:
    """The application behind a proxy that removes a prefix and does not tell about it."""

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(f"{prefix}/"), scope["path"]
            path, raw_path = scope["path"][len(prefix) :], scope["raw_path"][len(prefix) :]
            scope = {**scope, "path": path, "raw_path": raw_path}
        await app(scope, receive, send)

    return proxy


def choose(page: Page, url: str, *references: str) -> None:
    """Opens the page with some adapters selected."""
    page.goto(f"{url}/#{','.join(references)}")
    page.locator("#models tr").first.wait_for()


def ask(page: Page, text: str) -> None:
    """Types a text and sends it with the keyboard."""
    page.fill("#field-main", text)
    page.keyboard.press("Control+Enter")
    page.locator(".answer, #fault:not([hidden])").first.wait_for()


def get(url: str, method: str = "GET", body: Any = None, key: str | None = None) -> Any:
    """The decoded answer of the server to a request without a browser."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | (
        {"authorization": f"Bearer {key}"} if key else {}
    )
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())
