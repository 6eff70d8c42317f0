"""Short descriptions of adapters from their cards, as the lists of models show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from ..adapter.card import BackboneRef, CardSummary
from ..adapter.inputs import Inputs
from ..adapter.store_index import Version
from ..errors import AdapterkitError
from ..inference.pipeline import plain_task
from ..tasks.base import Task, tasks
from .engine.adapter_cache import AdapterCache
from .json_logs import log


class AdapterDescriptions:
    """Descriptions of the adapters of a store. Its methods read files.

    Args:
        cache: The adapters.
    """

    def __init__(self, cache: AdapterCache) -> None:
        self._cache = cache

    def page(
        self, may_use: Callable[[str], bool], after: str, limit: int, search: str = ""
    ) -> list[dict[str, Any]]:
        """Descriptions of the latest versions, in the order of their names. A broken folder is
        logged and left out, so that it does not hide the others.

        Args:
            may_use: Whether an adapter may be among them, by its name.
            after: Only names after this one.
            limit: Most adapters.
            search: Only names that contain this text, in upper or lower case.
        """
        part = search.casefold()
        matches = (name for name in self._cache.store.names() if part in name.casefold())
        names = (name for name in matches if may_use(name) and name > after)
        return list(islice(self._readable(names), limit))

    def of_version(self, version: Version) -> dict[str, Any]:
        """The description of a version.

        Raises:
            AdapterError: Its card cannot be read.
        """
        card = CardSummary.read(version.folder)
        split, scores = card.last_scores
        task = tasks().get(card.task)
        loaded = self._cache.backbone_of(card.backbone)
        backbone = card.backbone if loaded is None else BackboneRef(loaded.name, loaded.fingerprint)
        return {
            "name": version.name,
            "version": version.number,
            "digest": version.digest,
            "backbone": {**vars(backbone), "loaded": loaded is not None},
            "task": card.task,
            "main_metric": card.main_metric,
            **describe_inputs(task, card.inputs),
            "method": card.method,
            "members": card.n_members,
            "labels": card.labels,
            "scores": {k: v for k, v in scores.items() if isinstance(v, float)},
            "score_split": split or None,
            "score_rows": card.rows.get(split),
            "bytes": card.n_bytes,
        }

    def _readable(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            try:
                yield self.of_version(self._cache.store.find(name))
            except AdapterkitError as error:
                log.warning(f"not listed: {error}")


def plain_inputs() -> Inputs:
    """What a request to the plain backbone must and may hold."""
    return Inputs.of(plain_task(), {})


def describe_inputs(task: Task | type[Task] | None, inputs: Inputs | None) -> dict[str, Any]:
    """The required (`reads`) and optional (`may_read`) inputs of an adapter, as kind by role, and
    the role of the text that positions in its answers refer to (`document`).

    Args:
        task: Its task; None if it is not known here.
        inputs: Its inputs.
    """
    if task is None or inputs is None:
        return {"reads": None, "may_read": None, "document": None}
    return {
        "reads": {role: column.kind.name for role, column in inputs.required.items()},
        "may_read": {role: column.kind.name for role, column in inputs.optional.items()},
        "document": task.document_role,
    }
