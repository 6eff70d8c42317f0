"""A server from its settings: load, listen, and on SIGTERM answer what is here, then end."""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from ..adapter.store import Store
from ..backbone.load_options import Device, Dtype, Quantization
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from ..inference.lanes import server_lanes
from ..inference.predictor import Predictor
from .adapter_cache import AdapterCache
from .api_keys import VARIABLE, Keys, parse
from .app import make_app
from .engine import Engine
from .json_logs import log, log_lines
from .metrics import Metrics
from .service import Service, ServingLimits
from .tracing import Traces

DRAIN = 60.0
"""Seconds in which requests under way are answered after SIGTERM."""

CONNECTIONS = 4096

COLLECT = 700
"""Objects after which Python looks for rings of dead ones among the latest: its own habit."""


@dataclass(frozen=True)
class Settings:
    """How a server is run.

    Attributes:
        store: The folder or URL of adapters.
        cache: Where a URL's adapters are kept.
        backbone: minilm, a folder or a hub name.
        dtype, quantization, device: Of the backbone.
        memory, device_memory: Bytes of adapters held in memory and on a GPU.
        pinned: Names that are never let go.
        batch_tokens: Most tokens of a batch; what suits the device where None.
        queue_tokens: Most tokens that wait.
        lanes: Batches computed side by side on a CPU; one a core, up to four, where None.
        keys: The key file; None where there is none.
        any_backbone: Accept adapters that were trained on other weights.
        log_texts: Put what is asked into the log.
        limits: What one request may be.
    """

    store: str
    cache: Path | None = None
    backbone: str = "minilm"
    dtype: Dtype = "float32"
    quantization: Quantization = "none"
    device: Device = "auto"
    memory: int = 2_000_000_000
    device_memory: int = 2_000_000_000
    pinned: tuple[str, ...] = ()
    batch_tokens: int | None = None
    queue_tokens: int = 100_000
    lanes: int | None = None
    keys: Path | None = None
    any_backbone: bool = False
    log_texts: bool = False
    limits: ServingLimits = field(default_factory=ServingLimits)


def make_service(settings: Settings) -> Service:
    """Everything behind the app, ready but not started.

    Raises:
        AdapterkitError: Store, keys or backbone do not allow it.
    """
    store = Store(settings.store, settings.cache)
    if store.remote is None and not store.root.is_dir():
        raise AdapterkitError(f"there is no store {settings.store}; train one adapter first")
    keys = keys_of(settings.keys)
    backbone = Backbone.load(
        settings.backbone,
        dtype=settings.dtype,
        quantization=settings.quantization,
        device=settings.device,
    )
    lanes = server_lanes(backbone.device, settings.lanes)
    # The first batch on a machine compiles what all later ones use: no request should wait for it.
    lanes.submit(Predictor(backbone), [(None, "a text to begin with")]).result()
    metrics = Metrics(Traces.from_environment())
    resident = AdapterCache(
        store,
        backbone,
        settings.memory,
        settings.device_memory,
        settings.pinned,
        settings.any_backbone,
    )
    on_cpu = backbone.device.type == "cpu"
    engine = Engine(
        backbone,
        settings.batch_tokens or (512 if on_cpu else 16384),
        settings.queue_tokens,
        lanes,
        metrics,
    )
    metrics.watch(engine, resident)
    return Service(
        backbone,
        resident,
        engine,
        keys,
        metrics,
        settings.limits,
        settings.any_backbone,
        settings.log_texts,
    )


def keys_of(path: Path | None) -> Keys | None:
    """The callers of a key file, or of the environment where no file is given.

    Raises:
        AdapterkitError: They are not sound.
    """
    if path is not None:
        return Keys.load(path)
    text = os.environ.get(VARIABLE)
    return None if text is None else Keys(parse(text, VARIABLE))


def check_open(host: str, keys: Keys | None) -> None:
    """Refuses to let a whole network ask without keys.

    Raises:
        AdapterkitError: The host is not this machine's own, and there are no keys.
    """
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if keys is None and not own:
        raise AdapterkitError(
            f"--host {host} lets others ask, and there are no keys: give --keys FILE "
            "(adapterkit keys makes one), or listen on 127.0.0.1"
        )


def run(settings: Settings, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Raises:
        AdapterkitError: Settings do not allow it, or the port is taken.
    """
    check_open(host, keys_of(settings.keys))
    sock = _listen(host, port)
    service = make_service(settings)
    log_lines()
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(DRAIN),
        limit_concurrency=CONNECTIONS,
        server_header=False,
    )
    where, bound = sock.getsockname()[:2]
    facts = {
        "url": f"http://{where if ':' not in where else f'[{where}]'}:{bound}",
        "store": settings.store,
        "backbone": service.backbone.name,
        "keys": service.keys is not None,
    }
    # What is loaded now stays: the collector need not walk a million objects of it again and again
    # while every thread waits. What comes and goes from now on it looks through often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT)
    _Server(config, facts).run([sock])
    log.info("ended")


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; taken before anything is loaded, so that a taken port is told at once."""
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(kind, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise AdapterkitError(f"--host {host} --port {port}: {error.strerror}") from None
    return sock


class _Server(uvicorn.Server):
    """Uvicorn, but a drained server ends with exit code 0 and not by the signal.

    Args:
        config: Uvicorn's.
        facts: What the log says once it listens.
    """

    def __init__(self, config: uvicorn.Config, facts: dict[str, Any]) -> None:
        super().__init__(config)
        self._facts = facts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("listening", extra={"facts": self._facts})

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        handlers: dict[int, Any] = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
