"""Entities in texts for the log, found by an adapter of the store."""

from __future__ import annotations

from collections.abc import Sequence

from ..adapter.adapter import Adapter
from ..adapter.store import Store
from ..errors import AdapterError
from ..inference.backbones import Backbones
from .adapter_cache import AdapterCache
from .engine import Engine
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
        _check_entities(adapter, self._reference)
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


def check_finder(reference: str, store: Store, backbones: Backbones, any_backbone: bool) -> None:
    """Checks that an adapter can be loaded and finds entities.

    Args:
        reference: The adapter.
        store: Where it is.
        backbones: The backbones of the engine.
        any_backbone: Whether adapters that were trained on other weights are accepted.

    Raises:
        AdapterkitError: It cannot, or does not.
    """
    version = store.find(reference)
    adapter = backbones.load_adapter(
        version.folder,
        name=f"'{version.name}'",
        any_backbone=any_backbone,
        check_signature=store.check_signature,
    )
    _check_entities(adapter, reference)


def _check_entities(adapter: Adapter, reference: str) -> None:
    if not adapter.task.entity_kinds:
        raise AdapterError(
            f"'{reference}' is a {adapter.task.type} adapter whose answers have no entities; "
            "name a tagging adapter with tags such as B-PERSON and I-PERSON"
        )
