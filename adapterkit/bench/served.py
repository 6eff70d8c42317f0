"""A server as a process of its own, for benches that drive one: its address, memory, metrics."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import AdapterkitError
from .machine import resident_bytes
from .wire import Wire


@contextmanager
def server(store: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of its own over a store: its URL and its process."""
    command = [sys.executable, "-m", "adapterkit", "serve", str(store), "--port", "0", *options]
    with (
        tempfile.NamedTemporaryFile("w") as log,
        subprocess.Popen(command, stderr=log, text=True) as process,  # noqa: S603
    ):
        try:
            yield _url(process, Path(log.name)), process
        finally:
            process.send_signal(signal.SIGTERM)


def _url(process: subprocess.Popen[str], log: Path) -> str:
    """Where a server listens, as its log says."""
    while process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"listening"' in line and line.endswith("}"):
                return str(json.loads(line)["url"])
        time.sleep(0.2)
    raise AdapterkitError(f"the server did not start: {log.read_text('utf-8')[-500:]}")


def memory_of(process: subprocess.Popen[str]) -> int:
    """Bytes a process has now; 0 where the system does not tell."""
    return resident_bytes(process.pid) or 0


async def scrape(url: str) -> dict[str, float]:
    """A server's metrics, by line."""
    wire = Wire(url)
    reply = await wire.send("GET", "/metrics")
    wire.close()
    lines = [line for line in reply.content.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
