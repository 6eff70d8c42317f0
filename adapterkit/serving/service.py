"""The service behind the routes: permissions and quotas, loading of adapters, answers to rows."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..adapter.adapter import Adapter
from ..adapter.card import read_parent
from ..adapter.store import Store
from ..adapter.store_index import Version
from ..errors import (
    AdapterError,
    DataError,
    TooLargeError,
    UnknownAdapterError,
)
from ..inference.backbones import Backbones
from ..inference.forward import text_limit
from ..inference.pipeline import members_of, n_characters, n_tokens
from ..names import BASE, check_name
from ..tasks.types import Answer, Example, Text
from .adapter_descriptions import AdapterDescriptions
from .engine.adapter_cache import AdapterCache, LoadedAdapter
from .engine.engine import Engine
from .engine.pending_row import Output
from .engine.tokenizing import estimate_tokens
from .imported_folder import FolderImport, ImportOptions
from .keys.api_keys import EVERYONE, Caller, Keys
from .keys.wrong_keys import WrongKeys
from .metrics.metrics import Metrics
from .rollouts import Rollouts, position_of, served_rows
from .server_group import ServerGroup
from .serving_limits import ServingLimits
from .text_log.text_log import TextLog

T = TypeVar("T")

RowCheck = Callable[[Sequence[Adapter | None], Sequence[Example]], None]
"""Looks at the adapters and the tokenised rows of a request, and raises to refuse it."""


@dataclass(frozen=True)
class RowAnswer:
    """The answer to one row.

    Attributes:
        loaded: The adapter that gave it; None for the plain backbone.
        values: The answer.
        n_tokens: Number of tokens that were computed for it.
    """

    loaded: LoadedAdapter | None
    values: Answer
    n_tokens: int


class Service:
    """Answers the requests of many callers with the adapters of a store.

    Args:
        cache: The adapters.
        engine: Computes the answers.
        keys: The known callers; None to accept every caller.
        metrics: Counts the work.
        limits: Limits of one request.
        text_log: Logs the texts of requests; None if they are not logged.
        origins: Origins of the pages of other sites that may send requests (CORS).
        group: The other servers of the service, if there are any.
    """

    def __init__(
        self,
        cache: AdapterCache,
        engine: Engine,
        keys: Keys | None,
        metrics: Metrics,
        limits: ServingLimits,
        text_log: TextLog | None = None,
        origins: Collection[str] = (),
        group: ServerGroup | None = None,
    ) -> None:
        self.cache = cache
        self.engine = engine
        self.keys = keys
        self.metrics = metrics
        self.limits = limits
        self.text_log = text_log
        self.origins = origins
        self.group = group or ServerGroup()
        self.quotas = self.group.quotas
        self.wrong_keys = WrongKeys()
        self.descriptions = AdapterDescriptions(cache)
        self.rollouts = Rollouts(cache, engine, limits.timeout)
        metrics.observe_wrong_keys(self.wrong_keys)
        metrics.observe_rollouts(self.rollouts.counter)

    def start(self) -> None:
        """Starts the engine; must be called on the running event loop."""
        files = ThreadPoolExecutor(thread_name_prefix="files")
        asyncio.get_running_loop().set_default_executor(files)
        self.engine.start()

    @property
    def store(self) -> Store:
        """The store of the adapters."""
        return self.cache.store

    @property
    def backbones(self) -> Backbones:
        """The backbones of the engine."""
        return self.engine.backbones

    def caller(self, key: str) -> Caller | None:
        """The owner of a key; None if the server has keys and this is not one of them."""
        return EVERYONE if self.keys is None else self.keys.find(key)

    async def admit(self, caller: Caller, rows: Sequence[tuple[str | None, Text]]) -> None:
        """Checks the number of a request's rows, and takes them from the caller's quota.

        Raises:
            DataError: There are no rows, or too many.
            OverloadedError: The quota is used up.
            UnavailableError: The quota cannot be read now.
        """
        self.limits.check_rows(len(rows))
        await self.quotas.take(caller.tenant, "rows", len(rows))
        if self.text_log is not None:
            self.text_log.write(caller.tenant.name, rows)

    async def answer(
        self,
        caller: Caller,
        rows: Sequence[tuple[str | None, Text]],
        truncate: bool = True,
        output: Output = Output.ANSWER,
        check: RowCheck | None = None,
    ) -> list[RowAnswer]:
        """Answers rows, which may mix adapters.

        Args:
            caller: The caller.
            rows: Adapter reference (None or `base` for the plain backbone) and text of each row.
            truncate: Whether texts that are too long are truncated. Otherwise they are refused.
            output: What is computed for each row.
            check: Called with the tokenised rows before they are computed, and raises to refuse
                them.

        Raises:
            UnknownAdapterError: An adapter does not exist, or the caller may not use it. Both have
                the same message, so that a caller cannot find the names of others.
            MissingBackboneError: The backbone of an adapter is not loaded.
            DataError: A row is not valid, or there are too many rows.
            TooLargeError: A row, or the request, has too many characters.
            OverloadedError: A quota is used up, or the queue is full.
            UnavailableError: The server is closing, the timeout has passed, or a quota cannot be
                read now.
        """
        began = time.monotonic()
        await self.admit(caller, rows)
        by_reference = await self._load(caller, {reference or BASE for reference, _ in rows})
        loaded = [by_reference[reference or BASE] for reference, _ in rows]
        adapters = [None if one is None else one.adapter for one in loaded]
        texts = [text for _, text in rows]
        estimate = self._estimate(adapters, texts)
        await self.quotas.take(caller.tenant, "tokens", estimate)
        tokens: list[int] = []

        def charge(examples: list[Example]) -> None:
            tokens.extend(map(n_tokens, adapters, examples))
            self.quotas.correct(caller.tenant, "tokens", sum(tokens) - estimate)
            if not truncate:
                self._refuse_truncated(adapters, examples)
            if check is not None:
                check(adapters, examples)

        asked = time.monotonic()
        answers = await self.engine.ask(
            share_of(caller, rows[0][0]),
            list(zip(adapters, texts, strict=True)),
            self.limits.timeout,
            charge,
            output,
        )
        for name, n in Counter(one.version.name if one else BASE for one in loaded).items():
            self.metrics.rows(name, n)
        if output is Output.ANSWER:
            self.metrics.count_answers(zip(loaded, answers, strict=True))
            for served in served_rows(rows, loaded, answers, time.monotonic() - asked):
                self.rollouts.follow(served)
        self.metrics.activity.request(len(rows), time.monotonic() - began)
        return [RowAnswer(*parts) for parts in zip(loaded, answers, tokens, strict=True)]

    async def adapter(self, caller: Caller, reference: str | None) -> Adapter | None:
        """The adapter of a reference; None for the plain backbone (None or `base`).

        Raises:
            UnknownAdapterError: It does not exist, or the caller may not use it.
            MissingBackboneError: Its backbone is not loaded.
        """
        reference = reference or BASE
        loaded = (await self._load(caller, {reference}))[reference]
        return None if loaded is None else loaded.adapter

    async def find(self, caller: Caller, reference: str) -> Version:
        """The version that a reference means.

        Raises:
            UnknownAdapterError: It does not exist, or the caller may not use it.
        """
        self._check_permission(caller, reference)
        return await self.in_thread(self.store.find, reference)

    async def find_usable(self, caller: Caller, reference: str) -> Version:
        """The version that a reference means, if its backbone is loaded.

        Raises:
            UnknownAdapterError: It does not exist, or the caller may not use it.
            MissingBackboneError: Its backbone is not loaded.
        """
        version = await self.find(caller, reference)
        await self.in_thread(self.cache.check_backbone, version)
        return version

    async def publish(
        self, caller: Caller, name: str, files: Mapping[str, bytes], options: ImportOptions
    ) -> Version:
        """Publishes an adapter folder, if it can be loaded for the backbone that its card names.

        Args:
            caller: The caller, who must be allowed to use the adapter's parent as well.
            name: The name.
            files: Content by path. Those of a folder of PEFT are converted.
            options: What the caller says about a folder of PEFT.

        Raises:
            DataError: The folder is not valid or does not fit; the store has not changed.
        """
        imports = FolderImport(self.backbones, self.limits.upload_bytes)

        def publish() -> Version:
            own = imports.files(check_name(name), files, options)
            return self.store.publish_files(name, own, check)

        def check(folder: Path) -> None:
            try:
                parent = read_parent(folder)
                if parent is not None:
                    self._check_permission(caller, parent.name)
                self.cache.load(folder)
            except AdapterError as error:
                raise AdapterError(str(error).replace(f"{folder}", name)) from None

        try:
            return await self.in_thread(publish)
        except AdapterError as error:  # an error of the caller
            raise DataError(str(error)) from None

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Runs work on files in a thread."""
        return await asyncio.to_thread(work, *arguments)

    async def _load(self, caller: Caller, references: set[str]) -> dict[str, LoadedAdapter | None]:
        for reference in references:
            self._check_permission(caller, reference)
        names = sorted(references - {BASE})
        if len(names) == 1:  # without the cost of a task
            position = position_of(caller, names[0])
            return {BASE: None, names[0]: await self.cache.get(names[0], position)}
        loaded = await asyncio.gather(
            *(self.cache.get(name, position_of(caller, name)) for name in names)
        )
        return {BASE: None, **dict(zip(names, loaded, strict=True))}

    def _check_permission(self, caller: Caller, reference: str) -> None:
        name = reference.partition("@")[0]
        if not caller.may_use(name):
            raise UnknownAdapterError(f"there is no adapter '{name}'")

    def _estimate(self, adapters: Sequence[Adapter | None], texts: Sequence[Text]) -> int:
        """About how many tokens are computed for some texts.

        Raises:
            TooLargeError: They have too many characters.
        """
        sizes = list(map(n_characters, adapters, texts))
        for number, size in enumerate(sizes, 1):
            if size > self.limits.row_characters:
                raise TooLargeError(
                    f"text {number} has {size} characters to read, at most "
                    f"{self.limits.row_characters} are accepted; shorten it, or send fewer choices"
                )
        if sum(sizes) > self.limits.request_characters:
            raise TooLargeError(
                f"the texts have {sum(sizes)} characters to read, at most "
                f"{self.limits.request_characters} are accepted; send fewer rows in a request"
            )
        members = [len(members_of(adapter)) for adapter in adapters]
        return sum(n * estimate_tokens(size) for n, size in zip(members, sizes, strict=True))

    def _refuse_truncated(
        self, adapters: Sequence[Adapter | None], examples: Sequence[Example]
    ) -> None:
        for number, (adapter, example) in enumerate(zip(adapters, examples, strict=True), 1):
            if example.truncated:
                limit = text_limit(self.backbones.for_adapter(adapter), adapter)
                raise DataError(
                    f"text {number} is longer than {limit} tokens; "
                    "shorten it or send truncate: true"
                )


def share_of(caller: Caller, reference: str | None) -> str:
    """The tenant whose share of the machine a request uses: that of the key or, on a server
    without keys, the one in the name of the first adapter (None for the plain backbone)."""
    return caller.tenant.name or (reference or BASE).partition("/")[0]
