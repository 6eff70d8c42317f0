"""The card of an adapter folder, `adapterkit.json`: what PEFT's own files do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .._version import __version__
from ..atomic import folder_bytes
from ..errors import AdapterError
from ..schema import dump
from ..tasks.base import Task, tasks
from .adapter import MOST_MEMBERS, Adapter
from .inputs import Inputs
from .json_file import read_json
from .stacking import DIGEST, ParentRef

CARD = "adapterkit.json"

CARD_PARTS = {
    "method": ("type",),
    "task": ("type",),
    "backbone": ("name", "fingerprint", "lower_case"),
    "metrics": (),
    "training": (),
}
"""Parts of a card and the keys that each must have; the last two parts may be omitted."""


def card(adapter: Adapter, members: Sequence[str] = ()) -> dict[str, Any]:
    """The content of `adapterkit.json`.

    Args:
        adapter: The adapter.
        members: Digests of the weights files of its further members.
    """
    parent = adapter.on_top_of
    return {
        "adapterkit": __version__,
        "name": adapter.name,
        "backbone": {
            "name": adapter.backbone,
            "fingerprint": adapter.fingerprint,
            "lower_case": adapter.lower_case,
        },
        "method": dump(adapter.method),
        "task": dump(adapter.task),
        **({} if parent is None else {"on_top_of": vars(ParentRef.of(parent))}),
        **({"members": list(members)} if members else {}),
        "metrics": {split: dict(scores) for split, scores in adapter.metrics.items()},
        "training": dict(adapter.training),
    }


def read_card(folder: str | Path) -> dict[str, Any]:
    """`adapterkit.json` of an adapter folder, with every part it must have.

    Raises:
        AdapterError: It is not there, or a part is missing or garbled.
    """
    folder = Path(folder)
    content = read_json(folder, CARD)
    for part, keys in CARD_PARTS.items():
        section = content.get(part) if keys else content.setdefault(part, {})
        if not isinstance(section, dict) or any(key not in section for key in keys):
            raise AdapterError(f"{folder}: {CARD} lacks or garbles '{part}'")
    members = content.get("members", [])
    are_digests = isinstance(members, list) and all(DIGEST.fullmatch(str(m)) for m in members)
    if not are_digests or len(members) >= MOST_MEMBERS:
        raise AdapterError(
            f"{folder}: {CARD}: members: expected up to {MOST_MEMBERS - 1} digests (sha256:...), "
            f"got {members!r:.80}"
        )
    return content


def read_parent(folder: Path) -> ParentRef | None:
    """The parent in the card of an adapter folder; None without a parent or a card.

    Raises:
        AdapterError: The card is garbled.
    """
    return _parent(folder, read_card(folder)) if (folder / CARD).is_file() else None


def backbone_of(folder: Path) -> str | None:
    """Name of the backbone that an adapter folder was trained on; None if it has no card.

    Raises:
        AdapterError: The card is garbled.
    """
    return str(read_card(folder)["backbone"]["name"]) if (folder / CARD).is_file() else None


def _inputs(folder: Path, task: type[Task] | None, training: Mapping[str, Any]) -> Inputs | None:
    try:
        return None if task is None else Inputs.of(task, training)
    except ValueError as error:
        raise AdapterError(f"{folder}: {CARD}: training: {error}") from None


def _parent(folder: Path, content: Mapping[str, Any]) -> ParentRef | None:
    try:
        return ParentRef.read(content.get("on_top_of"))
    except ValueError as error:
        raise AdapterError(f"{folder}: {CARD}: {error}") from None


@dataclass(frozen=True)
class CardSummary:
    """What lists of adapters show of one adapter folder.

    Attributes:
        task: Name of its task.
        main_metric: Main metric of the task; None if the task is not known here.
        method: Name of its method.
        n_members: Members of the ensemble; 1 for a single adapter.
        parent: Name of the adapter it stands on; None without one.
        backbone: Name of its backbone.
        labels: Label names; None for a task without labels.
        metrics: Split to metric to value.
        n_bytes: Size of the folder.
        inputs: What a request must and may hold; None if the task is not known here.
    """

    task: str
    main_metric: str | None
    method: str
    n_members: int
    parent: str | None
    backbone: str
    labels: list[str] | None
    metrics: dict[str, dict[str, Any]]
    n_bytes: int
    inputs: Inputs | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The summary of an adapter folder.

        Raises:
            AdapterError: The card is missing or garbled.
        """
        content = read_card(folder)
        task = str(content["task"]["type"])
        known = tasks().get(task)
        parent = _parent(folder, content)
        return cls(
            task=task,
            main_metric=known.main_metric if known is not None else None,
            method=str(content["method"]["type"]),
            n_members=1 + len(content.get("members", ())),
            parent=parent.name if parent is not None else None,
            backbone=str(content["backbone"]["name"]),
            labels=content["task"].get("labels"),
            metrics=content["metrics"],
            n_bytes=folder_bytes(folder),
            inputs=_inputs(folder, known, content["training"]),
        )

    @property
    def last_scores(self) -> tuple[str, dict[str, Any]]:
        """The last split with its metrics: test if there is one; empty without any."""
        return next(reversed(self.metrics.items()), ("", {}))
