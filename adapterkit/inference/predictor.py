"""A predictor: named adapters over their backbones, which can be added and removed at any time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from ..adapter.adapter import Adapter
from ..adapter.card import BackboneRef
from ..adapter.folder import SignatureCheck, check_backbone
from ..adapter.references import backbone_name, find_folder
from ..adapter.stacking import ParentCache
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..errors import AdapterkitError, UnknownAdapterError, did_you_mean
from ..names import BASE, check_name
from ..tasks.types import Answer, Example, Text
from .backbones import Backbones
from .forward import MAX_TOKENS
from .lanes import lanes_of
from .pipeline import answer_rows, encode_each, encode_rows
from .progress_bar import progress_bar


class Predictor:
    """Named adapters over one or several backbones; any number of threads may use it at the same
    time.

    Args:
        backbone: The backbone, or several: each adapter then runs on the one it was trained on, and
            the first computes requests without an adapter.
        adapters: Adapters to add at the start.
        max_tokens: Most tokens in one packed batch; longer requests are split.
    """

    def __init__(
        self,
        backbone: Backbone | Backbones,
        adapters: Iterable[Adapter] = (),
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.backbones = Backbones.of(backbone)
        self.max_tokens = max_tokens
        # Threads share it: reading, setting and deleting a single entry is atomic in Python.
        self._adapters: dict[str, Adapter] = {}
        self._parents = ParentCache()
        for adapter in adapters:
            self.add(adapter)

    @classmethod
    def open(
        cls,
        references: Sequence[str],
        store: Store | str | Path = "adapters",
        *,
        backbone: Backbone | Backbones | None = None,
        any_backbone: bool = False,
    ) -> Self:
        """Opens adapters of a store, or adapter folders.

        Args:
            references: Names in the store (`acme/intent`, `acme/intent@2`, `acme/intent@stable`)
                or adapter folders.
            store: The store, or its folder.
            backbone: The backbone, or several; if omitted, the one that the first adapter was
                trained on, in float32.
            any_backbone: Accept adapters that were trained on other weights.

        Raises:
            UnknownAdapterError: The store has no such adapter.
            AdapterkitError: Two references are adapters of one name, or an adapter does not load.
        """
        if not isinstance(store, Store):
            store = Store(store)
        trained_on = backbone_name(references, store)  # an unknown adapter need not wait for one
        if backbone is None:
            backbone = Backbone.load(trained_on)
        predictor = cls(backbone)
        predictor.load_references(references, store, any_backbone=any_backbone)
        return predictor

    @property
    def backbone(self) -> Backbone:
        """The backbone, the first of several."""
        return self.backbones.default

    @property
    def names(self) -> list[str]:
        """Names of the adapters."""
        return sorted(self._adapters)

    def add(self, adapter: Adapter, *, any_backbone: bool = False) -> None:
        """Adds an adapter, or replaces the one of the same name.

        Running calls keep the adapter that they started with.

        Args:
            adapter: The adapter.
            any_backbone: Accept one that was trained on other weights.

        Raises:
            AdapterError: It was trained on another backbone.
            AdapterkitError: Its name is not valid, or is that of the plain backbone.
        """
        check_name(adapter.name)
        backbone = self.backbones.for_adapter(adapter)
        if not any_backbone:
            self.backbones.check(BackboneRef.of_adapter(adapter), adapter.name)
            check_backbone(adapter, backbone, adapter.name)
        resident = adapter.to(backbone.device).without_record()
        self._adapters[adapter.name] = self._parents.share(resident)

    def load(
        self,
        folder: str | Path,
        *,
        any_backbone: bool = False,
        on_top_of: str | Path | None = None,
        check_signature: SignatureCheck | None = None,
    ) -> str:
        """Loads an adapter folder and adds the adapter.

        Args:
            folder: The folder.
            any_backbone: Accept one that was trained on other weights.
            on_top_of: Where to look first for its parent (`load_adapter`).
            check_signature: Refuses folders without a signature (`load_adapter`).

        Returns:
            The adapter's name.

        Raises:
            AdapterError: The folder is not sound. The predictor is unchanged then.
        """
        adapter = self.backbones.load_adapter(
            folder,
            any_backbone=any_backbone,
            on_top_of=on_top_of,
            check_signature=check_signature,
        )
        self.add(adapter, any_backbone=any_backbone)
        return adapter.name

    def load_references(
        self, references: Sequence[str], store: Store, *, any_backbone: bool = False
    ) -> dict[str, str]:
        """Loads several adapters by reference.

        Args:
            references: Names in the store, adapter folders, or `base` for the plain backbone.
            store: The store; parents are looked up there too.
            any_backbone: Accept adapters that were trained on other weights.

        Returns:
            The adapter's name by reference.

        Raises:
            UnknownAdapterError: The store has no such adapter.
            AdapterkitError: Two references are adapters of one name, or an adapter does not load.
        """
        names: dict[str, str] = {}
        for reference in references:
            name = BASE
            if reference != BASE:
                name = self.load(
                    find_folder(reference, store),
                    any_backbone=any_backbone,
                    on_top_of=store.root,
                    check_signature=store.check_signature,
                )
            if reference in names:
                raise AdapterkitError(f"'{reference}' is given twice; give it once")
            for other, known in names.items():
                if name == known:
                    raise AdapterkitError(
                        f"'{other}' and '{reference}' are both named '{name}'; give one of them"
                    )
            names[reference] = name
        return names

    def unload(self, name: str) -> None:
        """Removes an adapter.

        Raises:
            UnknownAdapterError: There is no adapter of that name.
        """
        if self._adapters.pop(name, None) is None:
            raise self._unknown(name)

    def find(self, name: str | None) -> Adapter | None:
        """The adapter of a name; None for the plain backbone (None or `base`).

        Raises:
            UnknownAdapterError: There is no adapter of that name.
        """
        if name is None or name == BASE:
            return None
        adapter = self._adapters.get(name)
        if adapter is None:
            raise self._unknown(name)
        return adapter

    def __call__(
        self,
        requests: Sequence[tuple[str | None, Text]],
        *,
        names: Sequence[str] | None = None,
        progress: bool = False,
    ) -> list[Answer]:
        """Answers requests, which may mix adapters, methods and tasks.

        Args:
            requests: Adapter name (None or `base` for the plain backbone) and text of each request.
            names: How messages call each text, such as its file and row; its number if omitted.
            progress: Show a progress bar.

        Returns:
            In the order of the requests: `adapter`, the keys of the task's answer, and `truncated`
            if the text was too long. The plain backbone answers with a `vector`.

        Raises:
            UnknownAdapterError: A name is not known. Nothing is computed then.
            AdapterkitError: A text is empty or not a text.
        """
        owners = self._owners(requests)
        names = names or [f"text {number}" for number in range(1, len(requests) + 1)]
        texts = zip(owners, [text for _, text in requests], names, strict=True)
        examples = self.backbones.map(encode_rows, list(texts))
        with progress_bar(progress, total=len(requests), unit="text") as bar:
            return self._answers(list(zip(owners, examples, strict=True)), bar)

    def answer_each(
        self, requests: Sequence[tuple[str | None, Text]], names: Sequence[str], bar: Any = None
    ) -> list[Answer | AdapterkitError]:
        """Answers requests, as a call does, but a request that is not valid stops no other.

        Args:
            requests: Adapter name and text of each request.
            names: How messages call each text.
            bar: A progress bar that is moved by one step for each answer.

        Returns:
            In the order of the requests: the answer, or what is wrong with the request.

        Raises:
            UnknownAdapterError: A name is not known. Nothing is computed then.
        """
        owners = self._owners(requests)
        texts = zip(owners, [text for _, text in requests], names, strict=True)
        found: list[Any] = self.backbones.map(encode_each, list(texts))
        valid = [index for index, one in enumerate(found) if isinstance(one, Example)]
        answers = self._answers([(owners[index], found[index]) for index in valid], bar)
        for index, answer in zip(valid, answers, strict=True):
            found[index] = answer
        return found

    def _answers(self, rows: Sequence[tuple[Adapter | None, Example]], bar: Any) -> list[Answer]:
        """The answers to examples, in batches of one backbone each."""
        lanes = lanes_of(self.backbone.device)

        def answer(
            backbone: Backbone, some: Sequence[tuple[Adapter | None, Example]]
        ) -> list[Answer]:
            return answer_rows(backbone, some, self.max_tokens, bar, lanes)

        return self.backbones.map(answer, rows)

    def _owners(self, requests: Sequence[tuple[str | None, Text]]) -> list[Adapter | None]:
        """The adapter of each request. Every name is looked up once, so that one call uses one
        adapter of a name."""
        found = {name: self.find(name) for name, _ in requests}
        return [found[name] for name, _ in requests]

    def predict(self, name: str | None, texts: Sequence[Text]) -> list[Answer]:
        """Answers texts by one adapter; see `__call__`.

        Args:
            name: The adapter; None or `base` for the plain backbone.
            texts: The texts, or values by role.
        """
        return self([(name, text) for text in texts])

    def _unknown(self, name: str) -> UnknownAdapterError:
        hint = did_you_mean(name, self.names)
        return UnknownAdapterError(f"there is no adapter '{name}' here; {hint}")
