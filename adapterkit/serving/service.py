"""What a server does, without HTTP: who may ask what, adapters brought in, rows answered."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..adapter.card import CardSummary
from ..adapter.folder import load_adapter
from ..adapter.store import Store, Version
from ..backbone.model import Backbone
from ..errors import AdapterError, AdapterkitError, DataError, UnknownAdapterError
from ..inference.forward import text_limit
from ..inference.pipeline import n_tokens
from ..names import BASE
from ..tasks.base import Task, tasks
from ..tasks.columns import input_columns, required_columns
from ..tasks.types import Answer, Example, Text
from .adapter_cache import AdapterCache, LoadedAdapter
from .api_keys import EVERYONE, Caller, Keys
from .engine import Engine
from .json_logs import log
from .metrics import Metrics

T = TypeVar("T")


@dataclass(frozen=True)
class ServingLimits:
    """What one request may be.

    Attributes:
        rows: Most rows of a request.
        body_bytes: Most bytes of its body.
        upload_bytes: Most bytes of a published adapter.
        timeout: Seconds after which nobody waits for an answer.
    """

    rows: int = 256
    body_bytes: int = 2_000_000
    upload_bytes: int = 256_000_000
    timeout: float = 30.0


@dataclass(frozen=True)
class Answered:
    """One row's answer and the adapter it is from; None is the plain backbone."""

    held: LoadedAdapter | None
    answer: Answer


class Service:
    """A backbone, a store and an engine, asked by many callers.

    Args:
        backbone: The backbone.
        resident: Its adapters.
        engine: What answers.
        keys: Who may ask; None lets everyone.
        metrics: Where work is counted.
        limits: What one request may be.
        any_backbone: Whether adapters trained on other weights may be published.
        log_texts: Whether the log holds what is asked.
    """

    def __init__(
        self,
        backbone: Backbone,
        resident: AdapterCache,
        engine: Engine,
        keys: Keys | None,
        metrics: Metrics,
        limits: ServingLimits,
        any_backbone: bool = False,
        log_texts: bool = False,
    ) -> None:
        self.log_texts = log_texts
        self.backbone = backbone
        self.resident = resident
        self.engine = engine
        self.keys = keys
        self.metrics = metrics
        self.limits = limits
        self.any_backbone = any_backbone

    def start(self) -> None:
        """Begins to answer; called on the running event loop."""
        files = ThreadPoolExecutor(thread_name_prefix="files", initializer=_lowest_priority)
        asyncio.get_running_loop().set_default_executor(files)
        self.engine.start()

    @property
    def store(self) -> Store:
        return self.resident.store

    def caller(self, key: str | None) -> Caller | None:
        """Who asks; None where keys are needed and this is none."""
        if self.keys is None:
            return EVERYONE
        return None if key is None else self.keys.find(key)

    async def answer(
        self, caller: Caller, asked: Sequence[tuple[str | None, Text]], truncate: bool = True
    ) -> list[Answered]:
        """Answers rows that may mix adapters.

        Args:
            caller: Who asks.
            asked: Adapter reference (None or `base`: the plain backbone) and text of each row.
            truncate: Cut longer texts as the adapter's recipe says, or refuse them.

        Raises:
            UnknownAdapterError: There is no such adapter, or it is none of the caller's business;
                the two cannot be told apart.
            DataError: A row is not sound, or there are too many.
            OverloadedError: A quota is used up, or the queue is full.
            UnavailableError: The server is closing, or the time was up.
        """
        began = time.monotonic()
        if not 1 <= len(asked) <= self.limits.rows:
            raise DataError(f"expected 1 to {self.limits.rows} rows a request, got {len(asked)}")
        caller.rows.take(len(asked), "rows")
        if self.log_texts:
            facts = {"tenant": caller.tenant, "asked": [[name, text] for name, text in asked]}
            log.info("asked", extra={"facts": facts})
        held = await self._load(caller, {reference or BASE for reference, _ in asked})
        owners = [held[reference or BASE] for reference, _ in asked]
        rows = [
            (None if owner is None else owner.adapter, text)
            for owner, (_, text) in zip(owners, asked, strict=True)
        ]

        def charge(examples: list[Example]) -> None:
            asked_of = [adapter for adapter, _ in rows]
            if not truncate:
                self._refuse_cut(asked_of, examples)
            caller.tokens.take(sum(map(n_tokens, asked_of, examples)), "tokens")

        tenant = caller.tenant or (asked[0][0] or BASE).partition("/")[0]
        answers = await self.engine.ask(tenant, rows, self.limits.timeout, charge)
        for name, n in Counter(owner.version.name if owner else BASE for owner in owners).items():
            self.metrics.rows(name, n)
        self.metrics.activity.request(time.monotonic() - began)
        return [Answered(o, answer) for o, answer in zip(owners, answers, strict=True)]

    async def find(self, caller: Caller, reference: str) -> Version:
        """The version a reference means.

        Raises:
            UnknownAdapterError: There is none, or it is none of the caller's business.
        """
        self._check(caller, reference)
        return await self.in_thread(self.store.find, reference)

    async def models(
        self, caller: Caller, after: str, limit: int, search: str = ""
    ) -> list[dict[str, Any]]:
        """What the caller may ask, by name, from after a name on; only names that hold `search`,
        in small or capital letters."""
        part = search.casefold()

        def look() -> list[dict[str, Any]]:
            known = (n for n in self.store.names() if part in n.casefold())
            names = (n for n in known if caller.may_use(n) and n > after)
            return list(islice(self._described(names), limit))

        return await self.in_thread(look)

    def _described(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            try:
                yield self.describe(self.store.find(name))
            except AdapterkitError as error:  # one broken folder does not hide the others
                log.warning(f"not listed: {error}")

    def describe(self, version: Version) -> dict[str, Any]:
        """What a version says about itself, in short."""
        card = CardSummary.read(version.folder)
        _, scores = card.last_scores
        task = tasks().get(card.task)
        return {
            "name": version.name,
            "version": version.number,
            "digest": version.digest,
            "task": card.task,
            "main_metric": card.main_metric,
            **inputs_of(task),
            "method": card.method,
            "members": card.n_members,
            "labels": card.labels,
            "scores": {k: v for k, v in scores.items() if isinstance(v, float)},
            "bytes": card.n_bytes,
        }

    async def publish(self, name: str, files: Mapping[str, bytes]) -> Version:
        """Publishes an adapter folder; what does not load on this backbone is refused.

        Raises:
            DataError: The folder is not sound; nothing is left of it.
        """

        def check(folder: Path) -> None:
            try:
                load_adapter(folder, self.backbone, any_backbone=self.any_backbone)
            except AdapterError as error:
                raise AdapterError(str(error).replace(f"{folder}", name)) from None

        try:
            return await self.in_thread(lambda: self.store.publish_files(name, files, check))
        except AdapterError as error:  # the fault is in what was sent
            raise DataError(str(error)) from None

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Work on files, off the event loop and behind whatever answers."""
        return await asyncio.to_thread(work, *arguments)

    async def _load(self, caller: Caller, references: set[str]) -> dict[str, LoadedAdapter | None]:
        for reference in references:
            self._check(caller, reference)
        wanted = sorted(references - {BASE})
        if len(wanted) == 1:
            return {BASE: None, wanted[0]: await self.resident.get(wanted[0])}
        found = await asyncio.gather(*map(self.resident.get, wanted))
        return {BASE: None, **dict(zip(wanted, found, strict=True))}

    def _check(self, caller: Caller, reference: str) -> None:
        name = reference.partition("@")[0]
        if not caller.may_use(name):
            raise UnknownAdapterError(f"there is no adapter '{name}'")

    def _refuse_cut(self, owners: Sequence[Any], examples: Sequence[Example]) -> None:
        for place, (owner, example) in enumerate(zip(owners, examples, strict=True)):
            if example.truncated:
                raise DataError(
                    f"text {place + 1} is longer than {text_limit(self.backbone, owner)} tokens; "
                    "shorten it or send truncate: true"
                )


def inputs_of(task: Task | type[Task] | None) -> dict[str, Any]:
    """What a request of a task must hold (`reads`) and may hold (`may_read`), role to kind, and the
    role of the text in which the positions of its answers count (`document`)."""
    if task is None:
        return {"reads": None, "may_read": None, "document": None}
    required = required_columns(task.columns)
    return {
        "reads": {role: column.kind.name for role, column in required.items()},
        "may_read": {
            role: column.kind.name
            for role, column in input_columns(task.columns).items()
            if role not in required
        },
        "document": task.document_role,
    }


def _lowest_priority() -> None:
    """Puts the calling thread behind all others: who publishes can wait, who asks cannot."""
    if sys.platform == "linux":  # elsewhere a priority is a whole process's
        with suppress(OSError):  # some containers allow no change
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
