"""Servers on free ports of this machine, which run in threads during a test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from adapterkit.backbone.load_options import LoadOptions
from adapterkit.serving.http.connections import ConnectionLimits
from adapterkit.serving.http.tls import load_tls
from adapterkit.serving.server import Settings, load_keys, make_service, uvicorn_config


@contextmanager
def serving(
    store: Path | str, backbone: Path | str, *more_backbones: Path | str, **settings: Any
) -> Iterator[str]:
    """Runs a server of a store; yields its URL."""
    backbones = tuple(map(str, (backbone, *more_backbones)))
    on_cpu = LoadOptions(device="cpu")
    chosen = Settings(str(store), backbones=backbones, load_options=on_cpu, **settings)
    limits = ConnectionLimits.of_process(chosen.max_connections, chosen.max_connections_per_address)
    tls = load_tls(chosen.ssl_certfile, chosen.ssl_keyfile)
    service = make_service(chosen, load_keys(chosen.keys))
    server = uvicorn.Server(uvicorn_config(service, limits, tls))
    sock = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()


class Canned(NamedTuple):
    """A fixed reply."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class Stub(NamedTuple):
    """A server with fixed replies: its URL, and the path and headers of each request so far."""

    url: str
    seen: list[tuple[str, Mapping[str, str]]]


@contextmanager
def stub(answer: Callable[[int], Canned]) -> Iterator[Stub]:
    """Runs a server whose reply is a function of the number of the request, from 1."""
    seen: list[tuple[str, Mapping[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.path, dict(self.headers)))
            canned = answer(len(seen))
            self.send_response(canned.status)
            for name, value in canned.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(canned.body)))
            self.end_headers()
            self.wfile.write(canned.body)

        do_GET = do_POST = do_PUT = do_DELETE = _reply  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Stub(f"http://127.0.0.1:{server.server_address[1]}", seen)
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
