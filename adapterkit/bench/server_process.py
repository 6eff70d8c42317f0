"""A server in a process of its own: its URL, memory and metrics."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import AdapterkitError
from .connection import Connection
from .machine import resident_bytes


@contextmanager
def server_process(store: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Starts a server over a store and yields its URL and process; it ends with the block.

    Raises:
        AdapterkitError: The server does not start.
    """
    command = [sys.executable, "-m", "adapterkit", "serve", str(store), "--port", "0", *options]
    with started_server(command) as started:
        yield started


@contextmanager
def started_server(command: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Starts a server by any command and yields its URL and process; it ends with the block.

    Raises:
        AdapterkitError: The server does not start.
    """
    with (
        tempfile.NamedTemporaryFile("w") as log,
        subprocess.Popen(command, stderr=log, text=True) as process,  # noqa: S603
    ):
        try:
            yield _url(process, Path(log.name)), process
        finally:
            process.send_signal(signal.SIGTERM)


def _url(process: subprocess.Popen[str], log: Path) -> str:
    """The URL of a server, from its log."""
    while process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"listening"' in line and line.endswith("}"):
                return str(json.loads(line)["url"])
        time.sleep(0.2)
    raise AdapterkitError(f"the server did not start: {log.read_text('utf-8')[-500:]}")


def memory_of(process: subprocess.Popen[str]) -> int:
    """Resident bytes of a process; 0 if the system does not tell."""
    return resident_bytes(process.pid) or 0


async def scrape(url: str) -> dict[str, float]:
    """The metrics of a server: value by name with labels."""
    connection = Connection(url)
    reply = await connection.send("GET", "/metrics")
    connection.close()
    lines = [line for line in reply.content.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
