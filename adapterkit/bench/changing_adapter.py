"""An adapter whose versions change while a client asks it: is every answer the right version's?"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from itertools import count

from ..adapter.adapter import Adapter
from ..adapter.checksums import with_checksums
from ..adapter.folder import adapter_files
from ..client.tar import as_tar
from .clients import Load
from .connection import Connection, TimedReply
from .population import Population, same_answer, without_adapter

TAR = "application/x-tar"


class ChangingAdapter:
    """An adapter whose latest version changes between two contents while a client asks it.

    Args:
        population: Computes the expected answers.
        adapter: The adapter; version 1 is in the store.
        pause: Seconds between two rounds of changes.

    Attributes:
        enabled: Set while changes are made.
        load: Requests to the adapter, and to another that is deleted and published again.
        statuses: Number of replies to the changes by HTTP status.
    """

    def __init__(self, population: Population, adapter: Adapter, pause: float = 1.0) -> None:
        negated = replace(adapter, head={key: -tensor for key, tensor in adapter.head.items()})
        contents = {1: adapter, 2: negated}
        self._name, self._text, self._pause = adapter.name, population.texts[0], pause
        self._expected = {
            key: population.expected_answers([content])[adapter.name][0]
            for key, content in contents.items()
        }
        self._archives = {
            key: as_tar(with_checksums(adapter_files(content, population.backbone.geometry)))
            for key, content in contents.items()
        }
        self._content_of_version = {1: 1}
        self.enabled = asyncio.Event()
        self.load = Load()
        self.statuses = Counter[str]()
        self._finished = False

    def finish(self) -> None:
        """Lets the round under way be the last one."""
        self._finished = True
        self.enabled.set()

    async def send(self, connection: Connection, load: Load) -> None:
        """Asks the adapter; an answer must be that of the version it names."""
        reply = await self._ask(connection, self._name)
        content = 0
        if reply.status == 200:
            content = self._content_of_version[reply.content[0]["version"]]
        self._record(load, reply, content)

    async def keep_changing(self, connection: Connection) -> None:
        """Makes rounds of changes with pauses while `enabled` is set, until `finish`."""
        for version in count(2):
            await self.enabled.wait()
            if self._finished:
                return
            content = self._content_of_version[version] = 1 + (version + 1) % 2
            archive = self._archives[content]
            replies = await change_round(connection, self._name, version, archive)
            # A second name is published anew and deleted, with other content each time.
            path = "/admin/adapters/again/again"
            replies.append(await connection.send("PUT", path, archive, TAR))
            self._record(self.load, await self._ask(connection, "again/again"), content)
            replies.append(await connection.send("DELETE", path))
            self.statuses.update(str(reply.status) for reply in replies)
            await asyncio.sleep(self._pause)

    async def _ask(self, connection: Connection, name: str) -> TimedReply:
        body = {"requests": [{"adapter_id": name, "inputs": self._text}]}
        return await connection.post("/predict", body)

    def _record(self, load: Load, reply: TimedReply, content: int) -> None:
        """Records a reply; one that was refused counts as wrong as well."""
        right = reply.status == 200 and same_answer(
            without_adapter(reply.content[0]), self._expected[content]
        )
        load.record(reply, 1, right)
        load.wrong += reply.status != 200


async def change_round(
    connection: Connection, name: str, version: int, archive: bytes
) -> list[TimedReply]:
    """Publishes a version, moves aliases, rolls back, unloads, and deletes an old version.

    Args:
        connection: A connection of an admin.
        name: The adapter, of which an earlier version is published.
        version: The number that the new version will have.
        archive: The adapter folder as a tar archive.
    """
    path = f"/admin/adapters/{name}"
    body = json.dumps({"version": version}).encode()
    replies = [
        await connection.send("PUT", path, archive, TAR),
        await connection.send("PUT", f"/admin/aliases/stable/{name}", body),
        await connection.send("POST", f"/admin/rollback/{name}"),
        await connection.send("PUT", f"/admin/aliases/latest/{name}", body),
        await connection.send("POST", f"/admin/unload/{name}"),
    ]
    if version > 2:
        replies.append(await connection.send("DELETE", f"{path}?version={version - 2}"))
    return replies
