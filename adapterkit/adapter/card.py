"""The card of an adapter folder, `adapterkit.json`: what PEFT's own files do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .._version import __version__
from ..atomic import folder_bytes
from ..errors import AdapterError, AdapterkitError
from ..schema import dump
from ..tasks.base import tasks
from .adapter import Adapter
from .card_check import check_card
from .inputs import Inputs
from .json_file import read_json
from .peft_format import CONFIG, base_model
from .stacking import ParentRef

CARD = "adapterkit.json"


def card(adapter: Adapter, members: Sequence[str] = ()) -> dict[str, Any]:
    """The content of `adapterkit.json`.

    Args:
        adapter: The adapter.
        members: Digests of the weights files of its further members.

    Raises:
        AdapterError: The adapter has a value that a card cannot hold, such as a metric of NaN.
    """
    parent = adapter.on_top_of
    content = {
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
        # The log is a file of its own (`report_files`).
        "training": {key: value for key, value in adapter.training.items() if key != "log"},
    }
    _check(content, adapter.name)
    return content


def read_card(folder: str | Path) -> dict[str, Any]:
    """`adapterkit.json` of an adapter folder, checked (`check_card`).

    Raises:
        AdapterError: It is not there, or a part is missing or garbled.
    """
    content = read_json(Path(folder), CARD)
    _check(content, str(folder))
    return {"metrics": {}, "training": {}, **content}


def _check(content: Mapping[str, Any], where: str) -> None:
    try:
        check_card(content)
    except (ValueError, AdapterkitError) as error:
        text = " ".join(str(error).split())
        raise AdapterError(f"{where}: {CARD}: {text:.400}") from None


def read_parent(folder: Path) -> ParentRef | None:
    """The parent in the card of an adapter folder; None without a parent or a card.

    Raises:
        AdapterError: The card is garbled.
    """
    if not (folder / CARD).is_file():
        return None
    try:
        return ParentRef.read(read_json(folder, CARD).get("on_top_of"))
    except ValueError as error:
        raise AdapterError(f"{folder}: {CARD}: {error}") from None


def backbone_of(folder: Path) -> str:
    """Name of the backbone that an adapter folder was trained on.

    Raises:
        AdapterError: The card is garbled, or it is a folder of PEFT that names no base model.
    """
    if (folder / CARD).is_file():
        return str(read_card(folder)["backbone"]["name"])
    name = base_model(read_json(folder, CONFIG))
    if name is None:
        raise AdapterError(
            f"{folder}: {CONFIG} has no base_model_name_or_path; name the model with --backbone"
        )
    return name


@dataclass(frozen=True)
class BackboneRef:
    """The backbone that an adapter was trained on.

    Attributes:
        name: Its name at that time.
        fingerprint: Its fingerprint; None if a folder of PEFT was imported, which does not say it.
    """

    name: str
    fingerprint: str | None

    def __str__(self) -> str:
        """Its name with the beginning of the fingerprint, as messages show it."""
        return f"'{self.name}' ({(self.fingerprint or 'no fingerprint')[:19]})"

    @classmethod
    def of_adapter(cls, adapter: Adapter) -> Self:
        """The reference of an adapter."""
        return cls(adapter.backbone, adapter.fingerprint)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The reference in the content of a card."""
        return cls(str(content["backbone"]["name"]), content["backbone"]["fingerprint"])

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The reference in the card of an adapter folder; None without a card.

        Raises:
            AdapterError: The card is garbled.
        """
        return cls.of(read_card(folder)) if (folder / CARD).is_file() else None


@dataclass(frozen=True)
class CardSummary:
    """What lists of adapters show of one adapter folder.

    Attributes:
        task: Name of its task.
        main_metric: Main metric of the task; None if the task is not known here.
        method: Name of its method.
        n_members: Members of the ensemble; 1 for a single adapter.
        parent: Name of the adapter it stands on; None without one.
        backbone: The backbone that it was trained on.
        labels: Label names; None for a task without labels.
        metrics: Split to metric to value.
        rows: Split to number of its rows, if the training has recorded them.
        n_bytes: Size of the folder.
        inputs: What a request must and may hold; None if the task is not known here.
    """

    task: str
    main_metric: str | None
    method: str
    n_members: int
    parent: str | None
    backbone: BackboneRef
    labels: list[str] | None
    metrics: dict[str, dict[str, Any]]
    rows: dict[str, int]
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
        parent = ParentRef.read(content.get("on_top_of"))
        return cls(
            task=task,
            main_metric=known.main_metric if known is not None else None,
            method=str(content["method"]["type"]),
            n_members=1 + len(content.get("members", ())),
            parent=parent.name if parent is not None else None,
            backbone=BackboneRef.of(content),
            labels=content["task"].get("labels"),
            metrics=content["metrics"],
            rows=content["training"].get("rows", {}),
            n_bytes=folder_bytes(folder),
            inputs=None if known is None else Inputs.of(known, content["training"]),
        )

    @property
    def last_scores(self) -> tuple[str, dict[str, Any]]:
        """The last split with its metrics: test if there is one; empty without any."""
        return next(reversed(self.metrics.items()), ("", {}))
