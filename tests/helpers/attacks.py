"""Attacks on a running server, in a process of their own. Each goes on until the process ends.

The attackers have the address 127.0.0.2, a key of the tenant `loud`, and for publications the key
of an admin. What they publish and delete is written to a log, so that a lost version is found.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterkit.bench.connection import Connection

ADDRESS = ("127.0.0.2", 0)
TAR = "application/x-tar"


@dataclass(frozen=True)
class Scene:
    """What the attackers know.

    Attributes:
        url: The server.
        store: Folder of its store.
        backbone: Name or folder of its backbone.
        keys: Its key file.
        archive: An adapter folder as tar archive.
        log: File that gets a line `+ NAME VERSION` after each publication, and `- NAME VERSION`
            before each deletion.
    """

    url: str
    store: Path
    backbone: str
    keys: Path
    archive: Path
    log: Path

    @property
    def port(self) -> int:
        """The port of the server."""
        return int(self.url.rpartition(":")[2])

    def note(self, line: str) -> None:
        """Adds a line to the log."""
        with self.log.open("a") as file:
            file.write(f"{line}\n")


@contextmanager
def under_attack(scene: Scene) -> Iterator[None]:
    """Attacks a server with everything while the block runs."""
    context = multiprocessing.get_context("spawn")
    attacker = context.Process(target=attack, args=(scene,))
    attacker.start()
    try:
        yield
    finally:
        attacker.terminate()
        attacker.join(30)


def attack(scene: Scene) -> None:
    """Runs all attacks until SIGTERM, in the processor time that the attacked server and the honest
    clients leave: real attackers, and a second server, have machines of their own."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    async def run() -> None:
        whole = asyncio.gather(*attacks(scene), publish_and_delete(scene, "churn", scene.url))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, whole.cancel)
        with suppress(asyncio.CancelledError):
            await whole

    asyncio.run(run())


def attacks(scene: Scene) -> list[Awaitable[None]]:
    """All attacks that send requests."""
    many = [silent] * 150 + [slow_head] * 50 + [header_flood] * 2 + [unknown_key] * 2
    many += [tensors_without_key, huge_shape, long_context, many_choices, hang_up]
    many += [flood] * 16
    return [*(forever(one, scene, number) for number, one in enumerate(many)), kills(scene)]


async def forever(
    one: Callable[[Scene, random.Random], Awaitable[None]], scene: Scene, seed: int
) -> None:
    """Repeats an attack, however its connection ends."""
    rng = random.Random(seed)
    while True:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await one(scene, rng)
        await asyncio.sleep(0.05 + 0.1 * rng.random())


async def opened(scene: Scene) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", scene.port, local_addr=ADDRESS)


async def sent(scene: Scene, *parts: bytes, pause: float = 0.0) -> None:
    """Sends parts over a new connection and reads until the server closes it, for a minute."""
    reader, writer = await opened(scene)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while await reader.read(65536):
                    pass
    finally:
        writer.close()


def head(path: str, length: int, key: str = "ak-loud", extra: str = "") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: a", f"content-length: {length}", "connection: close"]
    lines += [f"authorization: Bearer {key}"] if key else []
    return ("\r\n".join(lines) + f"\r\n{extra}\r\n").encode()


async def silent(scene: Scene, rng: random.Random) -> None:
    await sent(scene)


async def slow_head(scene: Scene, rng: random.Random) -> None:
    await sent(scene, *[b"P"] * 60, pause=1.0)


async def header_flood(scene: Scene, rng: random.Random) -> None:
    line = b"x-many: " + b"a" * 7000 + b"\r\n"
    await sent(scene, b"POST /predict HTTP/1.1\r\nhost: a\r\n", *[line] * 200)


async def unknown_key(scene: Scene, rng: random.Random) -> None:
    await sent(scene, head("/predict", 2, f"ak-{rng.random()}") + b"{}")


BINARY = b'{"inputs": []}' + b"\1\0\0\0a" * 200_000
SHAPE = {"inputs": [{"name": "text", "shape": [1] * 90_000, "datatype": "BYTES", "data": ["a"]}]}
QUESTION = {"question": "where is my card", "context": "i lost my card in the rain " * 5000}
CHOICES = {"text": "my card " * 1000, "choices": [f"{n}" for n in range(20)]}
BODIES = {
    "shape": json.dumps(SHAPE).encode(),
    "question": json.dumps({"adapter_id": "loud/long", "inputs": QUESTION}).encode(),
    "choices": json.dumps({"adapter_id": "loud/choice", "inputs": CHOICES}).encode(),
    "flood": json.dumps(
        {"requests": [{"adapter_id": "loud/many", "inputs": "i lost my card in the rain"}] * 16}
    ).encode(),
}
"""Made once: the attackers share the processor with the attacked server."""


async def body_sent(scene: Scene, path: str, body: bytes) -> None:
    await sent(scene, head(path, len(body)) + body)


async def tensors_without_key(scene: Scene, rng: random.Random) -> None:
    extra = "inference-header-content-length: 14\r\n"
    await sent(scene, head("/v2/models/loud/long/infer", len(BINARY), "", extra) + BINARY)


async def huge_shape(scene: Scene, rng: random.Random) -> None:
    await body_sent(scene, "/v2/models/loud/long/infer", BODIES["shape"])


async def long_context(scene: Scene, rng: random.Random) -> None:
    await body_sent(scene, "/predict", BODIES["question"])


async def many_choices(scene: Scene, rng: random.Random) -> None:
    await body_sent(scene, "/predict", BODIES["choices"])


async def hang_up(scene: Scene, rng: random.Random) -> None:
    body = json.dumps({"adapter_id": "loud/long", "inputs": ["a", "my card " * 3000]}).encode()
    _, writer = await opened(scene)
    writer.write(head("/predict", len(body)) + body)
    await writer.drain()
    await asyncio.sleep(0.2 * rng.random())
    writer.close()


async def flood(scene: Scene, rng: random.Random) -> None:
    await body_sent(scene, "/predict", BODIES["flood"])


# Publications and deletions.


async def publish_and_delete(scene: Scene, tenant: str, url: str) -> None:
    """Publishes to three names, and deletes versions that are not the latest."""
    rng, archive = random.Random(tenant), scene.archive.read_bytes()
    connection, known = Connection(url, "ak-ops"), dict[str, list[int]]()
    while True:
        name = f"{tenant}/{rng.choice('abc')}"
        reply = await connection.send("PUT", f"/admin/adapters/{name}", archive, TAR)
        if reply.status == 201:
            scene.note(f"+ {name} {reply.content['version']}")
            known.setdefault(name, []).append(reply.content["version"])
        elif reply.status:
            scene.note(f"! {name} {reply.status} {reply.content}")
        if len(known.get(name, ())) > 3:
            version = known[name].pop(0)
            scene.note(f"- {name} {version}")
            path = f"/admin/adapters/{name}?version={version}"
            reply = await connection.send("DELETE", path)
        await asyncio.sleep(0.1)


async def kills(scene: Scene) -> None:
    """Starts a second server over the same store, publishes through it, and kills it."""
    rng = random.Random(0)
    command = [sys.executable, "-m", "adapterkit", "serve", str(scene.store), "--port", "0"]
    command += ["--backbone", scene.backbone, "--keys", str(scene.keys)]
    while True:
        process = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.PIPE, limit=2**20
        )
        assert process.stderr is not None
        churn: asyncio.Task[Any] | None = None
        try:
            async for line in process.stderr:
                if b'"listening"' in line:
                    url = json.loads(line)["url"]
                    churn = asyncio.create_task(publish_and_delete(scene, "second", url))
                    break
            await asyncio.sleep(2 + 4 * rng.random())
            process.kill()
            scene.note("k killed 0")
        finally:
            if churn is not None:
                churn.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.sleep(10)
