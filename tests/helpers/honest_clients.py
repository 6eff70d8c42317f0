"""Clients of many tenants that compare each answer with the one computed offline."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from adapterkit.adapter.adapter import Adapter
from adapterkit.bench.clients import Load
from adapterkit.bench.connection import Connection
from adapterkit.bench.population import Population, same_answer, without_adapter
from adapterkit.serving.keys.api_keys import hash_key

N_CLIENTS = 64
N_TENANTS = 10
"""Tenants of a `mixed_store`: t0 to t9."""


class Failure(NamedTuple):
    """A request that was not answered with 200: when it was sent, on the clock of
    `time.perf_counter`, and the status."""

    sent: float
    status: int


class HonestClients:
    """Clients of all tenants, each with its own API key.

    Args:
        population: Makes the store.
        adapters: The adapters that they ask.
        pause: Mean seconds between two requests of a client.

    Attributes:
        failures: The requests so far that were not answered with 200.
    """

    def __init__(self, population: Population, adapters: list[Adapter], pause: float) -> None:
        self.failures: list[Failure] = []
        self._pause = pause
        self._expected = population.expected_answers(adapters)
        self._requests: dict[str, list[tuple[str, int, bytes]]] = defaultdict(list)
        for adapter in adapters:
            for index, text in enumerate(population.texts):
                row = {"adapter_id": adapter.name, "inputs": population.input_of(adapter, text)}
                body = json.dumps({"requests": [row]}).encode()
                self._requests[adapter.name.partition("/")[0]].append((adapter.name, index, body))

    async def load(self, url: str, seconds: float) -> Load:
        """Asks for some seconds."""
        load = Load()
        clients = (self._client(url, number, seconds, load) for number in range(N_CLIENTS))
        await asyncio.gather(*clients)
        load.lasted = time.perf_counter() - load.began
        return load

    async def _client(self, url: str, number: int, seconds: float, load: Load) -> None:
        tenant, rng = f"t{number % N_TENANTS}", random.Random(number)
        connection = Connection(url, f"ak-{tenant}")
        await asyncio.sleep(self._pause * rng.random())
        while time.perf_counter() < load.began + seconds:
            name, index, body = rng.choice(self._requests[tenant])
            sent = time.perf_counter()
            reply = await connection.send("POST", "/predict", body)
            if reply.status != 200:
                self.failures.append(Failure(sent, reply.status))
            right = reply.status != 200 or same_answer(
                without_adapter(reply.content[0]), self._expected[name][index]
            )
            load.record(reply, 1, right)
            await asyncio.sleep(2 * self._pause * rng.random())
        connection.close()


def write_keys(path: Path, **tenants: dict[str, Any]) -> Path:
    """Writes a key file with the key `ak-NAME` of each tenant.

    Args:
        path: The file.
        tenants: Settings of tenants beside t0 to t9 and `ops`, an admin of all adapters.
    """
    sections: dict[str, dict[str, Any]] = {
        **{f"t{number}": {"adapters": [f"t{number}/*"]} for number in range(N_TENANTS)},
        "ops": {"adapters": ["*"], "role": "admin"},
        **tenants,
    }
    keys = {name: {"key": hash_key(f"ak-{name}"), **one} for name, one in sections.items()}
    path.write_text(json.dumps(keys))
    return path
