"""Entities in texts for the log, found by an adapter of the store."""

from __future__ import annotations

from collections.abc import Sequence

from ...adapter.card import CARD, read_card
from ...adapter.store import Store
from ...errors import AdapterError
from ...schema import build_kind
from ...tasks.base import Task, tasks
from ..engine.adapter_cache import AdapterCache
from ..engine.engine import Engine
from .text_span import TextSpan

MASK = "(mask)"
"""The tenant whose share of the machine the masking of texts uses; no adapter and no key has such a
name."""


class EntityFinder:
    """Finds entities in texts with an adapter, in the batches of the engine.

    Its tokens count towards the share of `MASK`, and towards nobody's quota.

    Args:
        reference: The adapter. An alias, or no version, is looked up for each request.
        cache: The adapters.
        engine: Computes the entities.
        timeout: Seconds after which a search fails.
    """

    def __init__(self, reference: str, cache: AdapterCache, engine: Engine, timeout: float) -> None:
        self._reference = reference
        self._cache = cache
        self._engine = engine
        self._timeout = timeout

    async def find(self, texts: Sequence[str]) -> list[list[TextSpan]]:
        """The entities in each text.

        Raises:
            AdapterkitError: They cannot be computed, or not in a whole text.
        """
        adapter = (await self._cache.get(self._reference)).adapter
        _check_entities(adapter.task, self._reference)
        found: list[list[TextSpan]] = [[] for _ in texts]
        numbers = [number for number, text in enumerate(texts) if text.strip()]
        if not numbers:  # a task refuses blank texts
            return found
        rows = [(adapter, texts[number]) for number in numbers]
        answers = await self._engine.ask(MASK, rows, self._timeout)
        for number, answer in zip(numbers, answers, strict=True):
            if "truncated" in answer:
                raise AdapterError(f"'{self._reference}' did not read a text to its end")
            found[number] = [
                TextSpan(one["start"], one["end"], one["entity_group"])
                for one in answer["entities"]
            ]
        return found


def check_finder(reference: str, store: Store) -> None:
    """Checks that an adapter exists and finds entities, before a backbone is loaded.

    Args:
        reference: The adapter.
        store: Where it is.

    Raises:
        AdapterkitError: It does not.
    """
    content = read_card(store.path(reference))
    try:
        task: Task = build_kind(tasks(), content["task"], f"{CARD}: task")
    except ValueError as error:
        raise AdapterError(f"'{reference}': {error}") from None
    _check_entities(task, reference)


def _check_entities(task: Task, reference: str) -> None:
    if not task.entity_kinds:
        raise AdapterError(
            f"'{reference}' is a {task.type} adapter whose answers have no entities; "
            "name a tagging adapter with tags such as B-PERSON and I-PERSON"
        )
