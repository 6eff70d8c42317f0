"""The backbones of one process: each adapter runs on the one that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..adapter.adapter import Adapter
from ..adapter.card import BackboneRef
from ..adapter.folder import OVERRIDE, SignatureCheck, load_adapter
from ..backbone.model import Backbone
from ..errors import BackboneError, MissingBackboneError

R = TypeVar("R", bound=tuple[Adapter | None, *tuple[Any, ...]])
T = TypeVar("T")


class Backbones:
    """Backbones beside each other, on one kind of device. An adapter finds its own by the
    fingerprint in its card.

    Args:
        backbones: At least one. The first is the default: it computes rows without an adapter, and
            the adapters of other backbones that a caller accepts all the same.

    Raises:
        BackboneError: Two have the same weights, or lie on different kinds of device.
    """

    def __init__(self, backbones: Iterable[Backbone]) -> None:
        self._all = tuple(backbones)
        self.default = self._all[0]
        self._by_fingerprint: dict[str | None, Backbone] = {}
        for backbone in self._all:
            self._add(backbone)

    def _add(self, backbone: Backbone) -> None:
        same = self._by_fingerprint.get(backbone.weights_fingerprint)
        if same is not None:
            raise BackboneError(
                f"the backbones '{same.name}' and '{backbone.name}' have the same weights; "
                "give one of them"
            )
        if backbone.device.type != self.default.device.type:
            raise BackboneError(
                f"the backbone '{self.default.name}' is on {self.default.device.type}, "
                f"'{backbone.name}' on {backbone.device.type}; load all on one kind of device"
            )
        # Version 0.1.0 recorded the fingerprint of the weights alone.
        for fingerprint in (backbone.fingerprint, backbone.weights_fingerprint):
            self._by_fingerprint[fingerprint] = backbone

    @classmethod
    def of(cls, backbones: Backbone | Backbones) -> Backbones:
        """A single backbone as such a set; a set as it is."""
        return backbones if isinstance(backbones, Backbones) else cls([backbones])

    def __iter__(self) -> Iterator[Backbone]:
        return iter(self._all)

    def find(self, trained_on: BackboneRef | None) -> Backbone | None:
        """The backbone that a card records; None if it is not here, or the card says none."""
        fingerprint = None if trained_on is None else trained_on.fingerprint
        return None if fingerprint is None else self._by_fingerprint.get(fingerprint)

    def for_adapter(self, adapter: Adapter | None) -> Backbone:
        """The backbone that computes an adapter which was accepted here, or a row without one."""
        if adapter is None:
            return self.default
        return self._by_fingerprint.get(adapter.fingerprint, self.default)

    def check(
        self, trained_on: BackboneRef | None, name: str, *, any_backbone: bool = False
    ) -> None:
        """Refuses an adapter that was trained on a backbone that is not here.

        Args:
            trained_on: What its card records; None, and a card without a fingerprint, are left to
                `load_adapter`.
            name: How the message calls the adapter.
            any_backbone: Accept it all the same.

        Raises:
            MissingBackboneError: The backbone is not here.
        """
        if any_backbone or trained_on is None or trained_on.fingerprint is None:
            return
        if trained_on.fingerprint in self._by_fingerprint:
            return
        here = ", ".join(str(BackboneRef(one.name, one.fingerprint)) for one in self)
        raise MissingBackboneError(
            f"{name} was trained on {trained_on}, which is not loaded; load it with --backbone "
            f"{trained_on.name}, or {OVERRIDE}; loaded: {here}"
        )

    def load_adapter(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        any_backbone: bool = False,
        on_top_of: str | Path | None = None,
        check_signature: SignatureCheck | None = None,
    ) -> Adapter:
        """Reads an adapter folder for the backbone that its card records.

        Args:
            folder: The folder.
            name: How a message about a missing backbone calls the adapter; the folder if omitted.
            any_backbone: Read an adapter of another backbone, or of an unknown one, for the
                default.
            on_top_of: Where to look first for its parent (`load_adapter`).
            check_signature: Refuses folders without a signature (`load_adapter`).

        Raises:
            MissingBackboneError: The backbone is not here.
            AdapterError: The folder is not sound.
        """
        trained_on = BackboneRef.read(Path(folder))
        self.check(trained_on, name or f"{folder}: the adapter", any_backbone=any_backbone)
        return load_adapter(
            folder,
            self.find(trained_on) or self.default,
            any_backbone=any_backbone,
            on_top_of=on_top_of,
            check_signature=check_signature,
        )

    def map(
        self, work: Callable[[Backbone, Sequence[R]], Sequence[T]], rows: Sequence[R]
    ) -> list[T]:
        """Does some work for the rows of each backbone.

        Args:
            work: Called with a backbone and its rows; returns a result for each.
            rows: The rows, whose first value is the adapter, or None for the default backbone.

        Returns:
            The results in the order of the rows.
        """
        groups: dict[Backbone, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(self.for_adapter(row[0]), []).append(index)
        results: list[Any] = [None] * len(rows)
        for backbone, indices in groups.items():
            found = work(backbone, [rows[index] for index in indices])
            for index, result in zip(indices, found, strict=True):
                results[index] = result
        return results
