"""The server process: loads the backbones, listens, and drains on SIGTERM or SIGINT."""

from __future__ import annotations

import gc
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from ..adapter.store import Store
from ..adapter.trust import Trust
from ..backbone.load_options import LoadOptions
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from ..inference.backbones import Backbones
from ..inference.lanes import server_lanes
from ..inference.predictor import Predictor
from ..names import check_name
from ..ops.kernels.compiling import compile_loops
from .app import make_app
from .engine.adapter_cache import AdapterCache
from .engine.engine import Engine
from .http.connections import ConnectionLimits, Connections
from .http.cors import check_origins
from .http.http_protocol import BoundedHttp
from .http.tls import TlsHandshake, load_tls
from .json_logs import log, log_as_json
from .keys.api_keys import Keys
from .keys.key_file import VARIABLE, KeyFile, parse_keys
from .listening import address_errors, bound, check_host, url_of, warn_of_plain_http
from .metrics.metrics import Metrics
from .server_group import ServerGroup
from .service import Service
from .serving_limits import ServingLimits
from .text_log.entity_finder import EntityFinder, check_finder
from .text_log.recognisers import Recognisers
from .text_log.text_log import MaskedTextLog, TextLog
from .tracing import Traces

DRAIN_SECONDS = 60.0
"""Most seconds in which running requests are answered after SIGTERM."""

BACKLOG = 128
"""Most connections that the kernel accepts before the server does. They have descriptors before the
server can count them, so they must fit into `RESERVED_DESCRIPTORS`."""

GC_THRESHOLD = 700
"""Number of new objects after which the garbage collector runs on the youngest of them."""


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        store: Folder or URL of the adapters.
        cache: Folder in which the adapters of a URL are stored.
        backbones: Each minilm, a folder or a hub name; the first is the default.
        load_options: Dtype, quantization and device of the backbones.
        memory, device_memory: Most bytes of adapters in memory, and on a GPU.
        pinned: Names that are never evicted from memory.
        batch_tokens: Most tokens of a batch; if None, 512 on a CPU and 16384 on a GPU.
        queue_tokens: Most tokens that may wait.
        lanes: Number of batches computed at the same time on a CPU; if None, one per core, up to 4.
        cores: CPU cores that compute batches; all of the process if None.
        keys: Key file, if any.
        ssl_certfile, ssl_keyfile: TLS certificate and private key in PEM format, if any.
        any_backbone: Whether adapters that were trained on other weights are accepted.
        trust: Trust file; without it, signatures are not read.
        log_texts: Whether the texts of requests are logged.
        log_masked_texts: Whether they are logged with personal numbers and addresses masked.
        mask_with: Adapter whose entities are masked there as well, if any.
        limits: Limits of one request.
        max_connections, max_connections_per_address: Most open connections; if None, as in
            `ConnectionLimits.of_process`.
        cors_origins: Origins of the pages of other sites that may send requests.
    """

    store: str
    cache: Path | None = None
    backbones: tuple[str, ...] = ("minilm",)
    load_options: LoadOptions = field(default_factory=LoadOptions)
    memory: int = 2_000_000_000
    device_memory: int = 2_000_000_000
    pinned: tuple[str, ...] = ()
    batch_tokens: int | None = None
    queue_tokens: int = 100_000
    lanes: int | None = None
    cores: int | None = None
    keys: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    any_backbone: bool = False
    trust: Path | None = None
    log_texts: bool = False
    log_masked_texts: bool = False
    mask_with: str | None = None
    limits: ServingLimits = field(default_factory=ServingLimits)
    max_connections: int | None = None
    max_connections_per_address: int | None = None
    cors_origins: tuple[str, ...] = ()


def make_service(
    settings: Settings, keys: Keys | None, group: ServerGroup | None = None
) -> Service:
    """Loads the backbones and makes a service, which is not started yet.

    Args:
        settings: The settings.
        keys: The keys that they name, as `load_keys` returns them.
        group: The other servers of the service, if there are any.

    Raises:
        AdapterkitError: The store or a backbone is not valid.
    """
    check_origins(settings.cors_origins, has_keys=keys is not None)
    recognisers = Recognisers() if settings.log_masked_texts else None
    store = open_store(settings)
    backbones = Backbones(
        Backbone.load_with(name, settings.load_options) for name in settings.backbones
    )
    if settings.mask_with is not None:
        with _naming("--mask-with", settings.mask_with):
            version = store.find(settings.mask_with)
            backbones.load_adapter(  # its backbone may not be here, or its files be damaged
                version.folder,
                name=f"'{version.name}'",
                any_backbone=settings.any_backbone,
                check_signature=store.check_signature,
            )
    device = backbones.default.device
    lanes = server_lanes(device, settings.lanes, settings.cores)
    # The first batch prepares a backbone, and on a CPU compiled loops are loaded: no request should
    # wait for that, and the garbage collector's freeze comes after it.
    if device.type == "cpu":
        compile_loops()
    for backbone in backbones:
        lanes.submit(Predictor(backbone), [(None, "a text to begin with")]).result()
    metrics = Metrics(Traces.from_environment())
    cache = AdapterCache(
        store,
        backbones,
        settings.memory,
        settings.device_memory,
        settings.pinned,
        settings.any_backbone,
    )
    on_cpu = device.type == "cpu"
    engine = Engine(
        backbones,
        settings.batch_tokens or default_batch_tokens(on_cpu=on_cpu),
        settings.queue_tokens,
        lanes,
        metrics,
    )
    metrics.observe(engine, cache)
    return Service(
        cache,
        engine,
        keys,
        metrics,
        settings.limits,
        _text_log(settings, recognisers, cache, engine),
        settings.cors_origins,
        group,
    )


def default_batch_tokens(*, on_cpu: bool) -> int:
    """Most tokens of a batch."""
    return 512 if on_cpu else 16384


def open_store(settings: Settings) -> Store:
    """The store of a server.

    Raises:
        AdapterkitError: It does not exist, or a named adapter or the trust file is not valid.
    """
    trust = None if settings.trust is None else Trust.read(settings.trust)
    store = Store(settings.store, settings.cache, trust)
    if store.remote is None and not store.root.is_dir():
        raise AdapterkitError(f"there is no store {settings.store}; train one adapter first")
    _check_names(settings, store)
    return store


def _check_names(settings: Settings, store: Store) -> None:
    """Checks that the adapters that settings name exist.

    Raises:
        AdapterkitError: One does not, or a pin names a version, which is chosen with each request.
    """
    for name in settings.pinned:
        with _naming("--pin", name):
            store.path(check_name(name))
    if settings.mask_with is not None:
        with _naming("--mask-with", settings.mask_with):
            check_finder(settings.mask_with, store)


@contextmanager
def _naming(option: str, value: str) -> Iterator[None]:
    """Names an option and its value in the messages of errors."""
    try:
        yield
    except AdapterkitError as error:
        raise AdapterkitError(f"{option} {value}: {error}") from None


def _text_log(
    settings: Settings, recognisers: Recognisers | None, cache: AdapterCache, engine: Engine
) -> TextLog | None:
    if recognisers is None:
        return TextLog() if settings.log_texts else None
    finder = None
    if settings.mask_with is not None:
        finder = EntityFinder(settings.mask_with, cache, engine, settings.limits.timeout)
    return MaskedTextLog(recognisers, finder)


def load_keys(path: Path | None) -> Keys | None:
    """The keys of a file or, if no file is given, of the environment; None if there are no keys.

    Raises:
        AdapterkitError: They are not valid.
    """
    if path is not None:
        return KeyFile(path)
    text = os.environ.get(VARIABLE)
    return None if text is None else Keys(parse_keys(text, VARIABLE))


def run_server(settings: Settings, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Raises:
        AdapterkitError: The settings are not valid, or the port is in use.
    """
    keys = load_keys(settings.keys)
    check_host(host, keys)
    tls = load_tls(settings.ssl_certfile, settings.ssl_keyfile)
    limits = ConnectionLimits.of_process(
        settings.max_connections, settings.max_connections_per_address
    )
    with bound(host, port) as sock:
        service = make_service(settings, keys)
        with address_errors(host, port):  # another server may have bound it and listened meanwhile
            sock.listen(BACKLOG)
        log_as_json()
        if tls is None:
            warn_of_plain_http(host)
        facts = {
            "url": url_of(*sock.getsockname()[:2], is_tls=tls is not None),
            "store": settings.store,
            "backbones": {one.name: {"bytes": one.n_bytes} for one in service.backbones},
            "keys": service.keys is not None,
            "signatures": service.store.trust is not None,
            "max_connections": limits.total,
        }
        _run(uvicorn_config(service, limits, tls), sock, facts)


def _run(config: uvicorn.Config, sock: socket.socket, facts: dict[str, Any]) -> None:
    freeze_objects()
    _Server(config, facts).run([sock])
    log.info("ended")


def freeze_objects() -> None:
    """Excludes all objects that exist now from garbage collection: they stay.

    The collector would stop all threads while it traverses them. It collects only the objects of
    requests then.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def uvicorn_config(
    service: Service, limits: ConnectionLimits, tls: ssl.SSLContext | None = None
) -> uvicorn.Config:
    """Uvicorn's settings for the application of a service.

    Args:
        service: The service; its metrics then count the connections.
        limits: Most connections.
        tls: TLS settings; None for plain HTTP.
    """
    connections = Connections(limits)
    service.metrics.observe_connections(connections)
    seconds = service.limits.read_timeout
    protocol: Any = partial(BoundedHttp, registry=connections, head_seconds=seconds)
    if tls is not None:
        protocol = partial(
            TlsHandshake, context=tls, registry=connections, seconds=seconds, make_http=protocol
        )
    return uvicorn.Config(
        make_app(service),
        http=protocol,  # uvicorn only calls it
        # uvloop ignores pause_reading in connection_made, so bytes of a handshake would be lost.
        loop="auto" if tls is None else "asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
        server_header=False,
    )


class _Server(uvicorn.Server):
    """Uvicorn, but after draining it ends with exit code 0 instead of the signal.

    Args:
        config: Settings of uvicorn.
        facts: Keys of the log record that is written when it listens.
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
