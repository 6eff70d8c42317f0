"""Rollouts of aliases: which version answers a caller, and what a shadow would have answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from ..adapter.adapter import Adapter
from ..adapter.rollout import Rollout
from ..errors import (
    AdapterkitError,
    OverloadedError,
    UnavailableError,
    UnreachableStoreError,
)
from ..names import VERSION
from ..tasks.types import Answer, Text
from .engine.adapter_cache import AdapterCache, LoadedAdapter
from .engine.engine import Engine
from .json_logs import log, loggable_reason
from .keys.api_keys import Caller
from .metrics.rollout_counts import RolloutCounter, RolloutCounts, VersionCounts

SHADOW = "(shadow)"
"""The tenant whose share of the machine all shadows use together; no adapter and no key has such a
name."""

MAX_SHADOWS = 32
"""Most requests of shadows that wait or are computed; further ones are skipped."""


def position_of(caller: Caller, reference: str) -> float | None:
    """The place of a caller in the rollout of a reference, from 0 to 1 (exclusive).

    It is a hash of the caller's session, or else of the API key, so that the same version answers
    it each time.

    Args:
        caller: The caller.
        reference: The adapter as a request names it.

    Returns:
        None if the reference names no alias.
    """
    _, _, alias = reference.partition("@")
    if not alias or VERSION.fullmatch(alias):
        return None
    parts = "\n".join((reference, caller.tenant.name, caller.session or caller.key_id))
    return int.from_bytes(sha256(parts.encode("utf-8", "replace")).digest()[:8]) / 2**64


@dataclass(frozen=True)
class ServedRows:
    """The rows of a request that an alias answered.

    Attributes:
        reference: The adapter as the request named it.
        loaded: The version that answered.
        texts: The rows.
        answers: Its answers.
        seconds: Seconds that the request took.
    """

    reference: str
    loaded: LoadedAdapter
    texts: Sequence[Text]
    answers: Sequence[Answer]
    seconds: float


def served_rows(
    rows: Sequence[tuple[str | None, Text]],
    loaded: Sequence[LoadedAdapter | None],
    answers: Sequence[Answer],
    seconds: float,
) -> Iterator[ServedRows]:
    """The rows of a request by reference, of those that may name an alias.

    Args:
        rows: Adapter reference and text of each row.
        loaded: The version that answered each row.
        answers: The answers.
        seconds: Seconds that the request took.
    """
    by_reference: dict[str, list[int]] = {}
    for index, (reference, _) in enumerate(rows):
        if reference is not None and "@" in reference:
            by_reference.setdefault(reference, []).append(index)
    for reference, indices in by_reference.items():
        version = loaded[indices[0]]
        if version is not None:
            texts = [rows[index][1] for index in indices]
            own = [answers[index] for index in indices]
            yield ServedRows(reference, version, texts, own, seconds)


class Rollouts:
    """Counts the answers of rollouts, and lets their shadows answer as well.

    Args:
        cache: The adapters.
        engine: Computes the answers.
        timeout: Seconds after which a shadow's request fails.
    """

    def __init__(self, cache: AdapterCache, engine: Engine, timeout: float) -> None:
        self.counter = RolloutCounter()
        self._cache = cache
        self._engine = engine
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, served: ServedRows) -> None:
        """Counts rows that were answered. If their alias has a shadow, it answers them later."""
        rollout = self._cache.store.known_rollout(served.reference)
        version = served.loaded.version.number
        if rollout is None or version not in rollout.versions:  # it began after the request
            return
        name, _, alias = served.reference.partition("@")
        counts = self.counter.of(name, alias, rollout)
        one = counts.served.setdefault(version, VersionCounts())
        one.add(len(served.texts), served.seconds)
        if rollout.shadow in (None, version):
            return
        if len(self._tasks) >= MAX_SHADOWS:
            counts.skipped += len(served.texts)
            return
        task = asyncio.create_task(self._shadow(served, rollout, counts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _shadow(self, served: ServedRows, rollout: Rollout, counts: RolloutCounts) -> None:
        """Lets a shadow answer rows, and compares the answers. Nobody waits for it, so its errors
        are counted: as answers that do not agree."""
        name, _, alias = served.reference.partition("@")
        n = len(served.texts)
        try:
            loaded = await self._cache.get(f"{name}@{rollout.shadow}")
            rows = [(loaded.adapter, text) for text in served.texts]
            began = time.monotonic()
            answers = await self._engine.ask(SHADOW, rows, self._timeout)
        except (OverloadedError, UnavailableError, UnreachableStoreError):
            counts.skipped += n
            return
        except Exception as error:
            log.warning(f"shadow {name}@{rollout.shadow}: {loggable_reason(error)}")
            counts.compared += n
        else:
            counts.shadow.add(n, time.monotonic() - began)
            counts.compared += n
            counts.agreed += sum(
                _agree(served.loaded.adapter, one, loaded.adapter, other)
                for one, other in zip(served.answers, answers, strict=True)
            )
        await self._decide(name, alias, counts)

    async def _decide(self, name: str, alias: str, counts: RolloutCounts) -> None:
        """Ends a rollout whose rule has come to a verdict, unless it was changed meanwhile."""
        version, rule = counts.verdict, counts.rollout.rule
        if version is None or rule is None:
            return
        facts: dict[str, Any] = {
            "action": "promote" if version == counts.rollout.shadow else "roll back",
            "adapter": name,
            "alias": alias,
            "version": version,
            "rule": vars(rule),
            "compared": counts.compared,
            "agreed": counts.agreed,
        }
        counts.is_ending = True
        try:
            await asyncio.to_thread(self._cache.store.promote, name, alias, version, counts.rollout)
        except (AdapterkitError, OSError) as error:  # another server was faster, or an outage
            log.warning(f"the rollout of {name}@{alias} was not ended: {error}")
            counts.is_ending = False
            return
        log.info("audit", extra={"facts": facts})


def _agree(adapter: Adapter, answer: Answer, other: Adapter, other_answer: Answer) -> bool:
    """Whether two answers are the same in one line: the label, the entities, the rounded number."""
    if adapter.task.type != other.task.type:
        return False
    return adapter.task.summary(answer).text == other.task.summary(other_answer).text
