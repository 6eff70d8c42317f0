"""A service of several replicas on Ray, in a process of its own, and what can be seen of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapterkit.bench.connection import Connection, run_load
from adapterkit.bench.server_process import started_server

PROGRAM = """
import json, sys
from pathlib import Path

from adapterkit.backbone.load_options import LoadOptions
from adapterkit.serving.replicas.ray_server import run_replicas
from adapterkit.serving.replicas.replicas import Replicas
from adapterkit.serving.server import Settings

store, backbone, keys, memory, replicas = json.loads(sys.argv[1])
on_cpu = LoadOptions(device="cpu")
settings = Settings(
    store, backbones=(backbone,), load_options=on_cpu, keys=Path(keys), memory=memory
)
run_replicas(settings, Replicas(**replicas), "127.0.0.1", 0)
"""
"""Starts a service with settings that are no options of the command."""

REPLICA = b"ray::ServeReplica:adapterkit:Replica"
"""How the name of the process of a replica begins."""

COORDINATOR = b"ray::Coordinator"
"""How that of the coordinator begins."""

SAMPLE = re.compile(r"^(\w+)\{(?:.*,)?replica=\"(\w+)\".*\} ([^ ]+)$", re.MULTILINE)


@contextmanager
def replica_service(
    store: Path, backbone: Path, keys: Path, memory: int, **replicas: Any
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Starts a service over a store and yields its URL and process; it ends with the block.

    Args:
        store: The store.
        backbone: Folder of the backbone.
        keys: The key file.
        memory: Bytes of adapters in the memory of each replica.
        replicas: Attributes of `Replicas`.
    """
    arguments = json.dumps([str(store), str(backbone), str(keys), memory, replicas])
    with started_server([sys.executable, "-c", PROGRAM, arguments]) as started:
        yield started


def processes_of(service: subprocess.Popen[str], kind: bytes = REPLICA) -> list[int]:
    """The processes of one kind that a service has started on this machine."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            name = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        if name.startswith(kind):
            found.append(int(folder.name))
    return [number for number in found if service.pid in _ancestors(number, parents)]


def _ancestors(number: int, parents: Mapping[int, int]) -> Iterator[int]:
    while number in parents:
        number = parents[number]
        yield number


def metrics_by_replica(url: str) -> dict[str, dict[str, float]]:
    """The metrics of each replica of a service, summed over all labels, by replica and name."""

    async def scrape() -> str:
        connection = Connection(url, "ak-ops")
        reply = await connection.send("GET", "/metrics")
        connection.close()
        return reply.content.decode() if reply.status == 200 else ""

    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, replica, value in SAMPLE.findall(run_load(scrape())):
        found[replica][name] += float(value)
    return found
