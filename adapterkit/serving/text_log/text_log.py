"""The texts of requests in the log, as they are or masked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ..json_logs import log, loggable_reason
from .entity_finder import EntityFinder
from .recognisers import Recognisers
from .row_texts import LoggedRow, RowTexts
from .text_span import TextSpan

MAX_WAITING = 2_000_000
"""Largest size of texts (`RowTexts.size`) that wait to be masked. While more wait, the texts of
requests are not logged."""

DRAIN_SECONDS = 5.0
"""Most seconds that a server which ends waits for texts to be masked."""


class TextLog:
    """Logs the texts of requests as they are."""

    def write(self, tenant: str, rows: Sequence[LoggedRow]) -> None:
        """Logs the rows of a request; must be called on the event loop.

        Args:
            tenant: The tenant that asks.
            rows: Adapter reference and request of each row, which are not checked yet.
        """
        facts = {"tenant": tenant, "asked": [[name, request] for name, request in rows]}
        log.info("asked", extra={"facts": facts})

    async def drain(self) -> None:
        """Waits until all is logged; then nothing can be logged any more."""


class MaskedTextLog(TextLog):
    """Logs the texts of requests with personal numbers and addresses masked, and the entities that
    an adapter finds.

    `write` returns at once, and the texts are masked later, in a thread of its own, so that no
    request waits for it. Texts that cannot be masked are not logged; a warning says why.

    Args:
        recognisers: Find numbers and addresses.
        finder: Finds entities, if there is one.
    """

    def __init__(self, recognisers: Recognisers, finder: EntityFinder | None = None) -> None:
        self._recognisers = recognisers
        self._finder = finder
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mask")

    def write(self, tenant: str, rows: Sequence[LoggedRow]) -> None:
        texts = RowTexts(rows)
        if self._tasks and self._waiting + texts.size > MAX_WAITING:
            _warn(tenant, len(rows), "too many texts wait to be masked")
            return
        self._waiting += texts.size
        task = asyncio.create_task(self._write_masked(tenant, len(rows), texts))
        self._tasks.add(task)
        task.add_done_callback(partial(self._end, texts.size))

    async def drain(self) -> None:
        """Waits until all is logged, for at most `DRAIN_SECONDS`; what is late is not logged."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _write_masked(self, tenant: str, n_rows: int, texts: RowTexts) -> None:
        try:
            masked = texts.masked(await self._find(texts.texts))
        except asyncio.CancelledError:
            _warn(tenant, n_rows, "the server is closing")
        except Exception as error:
            _warn(tenant, n_rows, loggable_reason(error))
        else:
            super().write(tenant, masked)

    async def _find(self, texts: Sequence[str]) -> list[list[TextSpan]]:
        loop = asyncio.get_running_loop()
        spans = await loop.run_in_executor(self._thread, self._recognise, texts)
        if self._finder is None:
            return spans
        entities = await self._finder.find(texts)
        return [own + more for own, more in zip(spans, entities, strict=True)]

    def _recognise(self, texts: Sequence[str]) -> list[list[TextSpan]]:
        return [self._recognisers.find(text) for text in texts]

    def _end(self, size: int, task: asyncio.Task[None]) -> None:
        self._waiting -= size
        self._tasks.discard(task)


def _warn(tenant: str, n_rows: int, reason: str) -> None:
    facts = {"tenant": tenant, "rows": n_rows, "reason": reason}
    log.warning("texts not logged", extra={"facts": facts})
