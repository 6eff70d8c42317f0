"""Answers for any mix of adapters over one backbone, adapters coming and going."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from .adapter import BASE, Adapter, check_name
from .backbone import Backbone
from .batch import Inputs
from .errors import AdapterkitError, UnknownAdapterError, did_you_mean
from .files import check_backbone, load_adapter
from .forward import MAX_TOKENS, by_budget, forward, text_limit
from .sections import is_text
from .task import Answer, Row

Text = str | tuple[str, str]


class Predictor:
    """Named adapters over one backbone; any number of threads may use it at the same time.

    Args:
        backbone: The backbone.
        adapters: Adapters to hold from the start.
        max_tokens: Most tokens in one packed batch; longer requests run as several.
    """

    def __init__(
        self, backbone: Backbone, adapters: Iterable[Adapter] = (), max_tokens: int = MAX_TOKENS
    ) -> None:
        self.backbone = backbone
        self.max_tokens = max_tokens
        # Single entries are read, set and deleted, each of which Python does in one step.
        self._adapters: dict[str, Adapter] = {}
        for adapter in adapters:
            self.add(adapter)

    @property
    def names(self) -> list[str]:
        """The adapters that can be asked."""
        return sorted(self._adapters)

    def add(self, adapter: Adapter, *, any_backbone: bool = False) -> None:
        """Makes an adapter ready to answer, in place of one of the same name.

        Calls already running keep the adapter they began with.

        Args:
            adapter: The adapter.
            any_backbone: Accept one that was trained on other weights.

        Raises:
            AdapterError: It was trained on another backbone.
            AdapterkitError: Its name is the plain backbone's or is no name.
        """
        check_name(adapter.name)
        if not any_backbone:
            check_backbone(adapter, self.backbone, adapter.name)
        self._adapters[adapter.name] = adapter.to(self.backbone.device)

    def load(self, folder: str | Path, *, any_backbone: bool = False) -> str:
        """Loads an adapter folder and makes it ready to answer.

        Returns:
            The adapter's name.

        Raises:
            AdapterError: The folder is not sound; what was loaded stays as it was.
        """
        adapter = load_adapter(folder, self.backbone, any_backbone=any_backbone)
        self.add(adapter, any_backbone=any_backbone)
        return adapter.name

    def unload(self, name: str) -> None:
        """Lets an adapter go.

        Raises:
            UnknownAdapterError: There is none of that name.
        """
        if self._adapters.pop(name, None) is None:
            raise self._unknown(name)

    def __call__(
        self, requests: Sequence[tuple[str | None, Text]], *, progress: bool = False
    ) -> list[Answer]:
        """Answers a list that may mix adapters, methods and tasks.

        Args:
            requests: Adapter name (None or `base`: the plain backbone) and text or text pair.
            progress: Show a progress bar.

        Returns:
            In the order of the requests: `adapter`, what the adapter's task answers, and
            `truncated` where the text was too long; for the plain backbone its `vector`.

        Raises:
            UnknownAdapterError: A name is not known; nothing is answered then.
            AdapterkitError: A text is empty or not a text.
        """
        # Every name is looked up once: a swap midway cannot split a call between two adapters.
        named = {name: self._find(name) for name, _ in requests}
        owners = [named[name] for name, _ in requests]
        inputs = tokenised(self.backbone, owners, [text for _, text in requests])
        answers: list[Answer] = [{} for _ in requests]
        with tqdm(total=len(requests), unit="text", disable=None if progress else True) as bar:
            for part in by_budget([len(i) for i in inputs], self.max_tokens):
                with torch.inference_mode():
                    pieces = forward(self.backbone, [(owners[i], inputs[i]) for i in part])
                for piece in pieces:
                    for row, answer in zip(
                        piece.rows, _answers(piece.adapter, piece.values), strict=True
                    ):
                        answers[part[row]] = answer
                bar.update(len(part))
        for answer, text in zip(answers, inputs, strict=True):
            if text.truncated:
                answer["truncated"] = True
        return answers

    def _find(self, name: str | None) -> Adapter | None:
        if name is None or name == BASE:
            return None
        adapter = self._adapters.get(name)
        if adapter is None:
            raise self._unknown(name)
        return adapter

    def _unknown(self, name: str) -> UnknownAdapterError:
        hint = did_you_mean(name, self.names)
        return UnknownAdapterError(f"there is no adapter '{name}' here; {hint}")


def tokenised(
    backbone: Backbone, owners: Sequence[Adapter | None], texts: Sequence[Text]
) -> list[Inputs]:
    """Texts as their adapters read them, cut to each adapter's limit.

    Raises:
        AdapterkitError: A text is empty or not a text.
    """
    firsts: list[str] = []
    seconds: list[str | None] = []
    by_limit: dict[int, list[int]] = {}
    for place, (owner, text) in enumerate(zip(owners, texts, strict=True)):
        first, second = (text, None) if isinstance(text, str) else _two(text, place)
        for part in (first, second):
            if part is not None and not (is_text(part) and part.strip()):
                raise AdapterkitError(f"text {place + 1} is empty or not a text: {part!r}")
        firsts.append(first)
        seconds.append(second)
        by_limit.setdefault(text_limit(backbone, owner), []).append(place)
    inputs: list[Inputs | None] = [None] * len(texts)
    for limit, places in by_limit.items():
        found = backbone.tokenise(
            [firsts[place] for place in places], [seconds[place] for place in places], limit
        )
        for place, row in zip(places, found, strict=True):
            inputs[place] = row
    return [row for row in inputs if row is not None]


def row_text(row: Row) -> Text:
    """The text or text pair of a data row."""
    pair = row.fields.get("text_pair")
    return row.fields["text"] if pair is None else (row.fields["text"], pair)


def logits_of(
    backbone: Backbone, adapter: Adapter, inputs: Sequence[Inputs], *, progress: bool = False
) -> Tensor:
    """One adapter's logits for many texts, `[n, ...]` on the CPU, in their order."""
    found: list[Tensor] = [torch.empty(0)] * len(inputs)
    with tqdm(total=len(inputs), unit="text", disable=None if progress else True) as bar:
        for part in by_budget([len(i) for i in inputs]):
            with torch.inference_mode():
                (piece,) = forward(backbone, [(adapter, inputs[i]) for i in part])
            for row, line in zip(piece.rows, piece.values.float().cpu(), strict=True):
                found[part[row]] = line
            bar.update(len(part))
    return torch.stack(found)


def evaluate(
    backbone: Backbone, adapter: Adapter, rows: Sequence[Row], *, progress: bool = False
) -> dict[str, float]:
    """An adapter's metrics on labelled rows.

    Raises:
        DataError: A row's label is not one the adapter knows.
    """
    targets = [adapter.task.target(row) for row in rows]
    inputs = tokenised(backbone, [adapter] * len(rows), [row_text(row) for row in rows])
    return adapter.task.metrics(logits_of(backbone, adapter, inputs, progress=progress), targets)


def _answers(adapter: Adapter | None, values: Tensor) -> list[Answer]:
    if adapter is None:
        return [{"adapter": BASE, "vector": line} for line in values.float().tolist()]
    return [{"adapter": adapter.name, **answer} for answer in adapter.task.answers(values)]


def _two(text: object, place: int) -> tuple[str, str]:
    if isinstance(text, (tuple, list)) and len(text) == 2:
        return text[0], text[1]
    raise AdapterkitError(f"text {place + 1}: expected a text or a pair of texts, got {text!r}")
