"""Answers for any mix of adapters over one backbone, adapters coming and going."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .adapter import BASE, Adapter, check_name
from .backbone import Backbone
from .errors import UnknownAdapterError, did_you_mean
from .fields import Fields
from .files import check_backbone, load_adapter
from .forward import MAX_TOKENS, by_budget, forward, text_limit
from .task import Answer, Example, Outputs, Row, Task, Text, tasks

PLAIN: Task = tasks()["classification"]()
"""How texts for the plain backbone are read."""


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
        # The training record is for people, and as large as a small adapter.
        ready = replace(adapter.to(self.backbone.device), training={})
        self._adapters[adapter.name] = ready

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
        examples = read(self.backbone, owners, [text for _, text in requests])
        answers: list[Answer] = [{} for _ in requests]
        with tqdm(total=len(requests), unit="text", disable=None if progress else True) as bar:
            rows = list(zip(owners, examples, strict=True))
            said = run(self.backbone, rows, self.max_tokens, bar)
        asked: dict[str | None, list[int]] = {}
        for place, (name, _) in enumerate(requests):
            asked.setdefault(name, []).append(place)
        for name, places in asked.items():
            outputs = Outputs.of([said[place] for place in places])
            found = _answers(named[name], outputs, [examples[place] for place in places])
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        for answer, example in zip(answers, examples, strict=True):
            if example.truncated:
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


def read(
    backbone: Backbone, owners: Sequence[Adapter | None], asked: Sequence[Text]
) -> list[Example]:
    """What is asked as each adapter's task reads it, cut to each adapter's limit.

    Raises:
        AdapterkitError: A text is empty or not a text.
    """
    rows: list[Fields] = []
    together: dict[tuple[int, Task], list[int]] = {}
    for place, (owner, text) in enumerate(zip(owners, asked, strict=True)):
        task = owner.task if owner is not None else PLAIN
        rows.append(task.fields(text, f"text {place + 1}"))
        together.setdefault((text_limit(backbone, owner), task), []).append(place)
    examples: list[Example] = [Example(())] * len(rows)
    for (limit, task), places in together.items():
        found = task.examples([rows[place] for place in places], backbone.reader, limit)
        for place, example in zip(places, found, strict=True):
            examples[place] = example
    return examples


def run(
    backbone: Backbone,
    rows: Sequence[tuple[Adapter | None, Example]],
    max_tokens: int = MAX_TOKENS,
    bar: Any = None,
) -> list[tuple[Tensor, ...]]:
    """Examples through the one forward, under a token budget.

    Args:
        backbone: The backbone.
        rows: Adapter and example of each row.
        max_tokens: Most tokens in one packed batch.
        bar: A progress bar to move on, a step a row.

    Returns:
        For each row its sequences' lines, `[lines, C]` each, float32 on the CPU.
    """
    flat = [
        (adapter, inputs, row, number == len(example.inputs) - 1)
        for row, (adapter, example) in enumerate(rows)
        for number, inputs in enumerate(example.inputs)
    ]
    said: list[list[Tensor]] = [[] for _ in rows]
    for part in by_budget([len(inputs) for _, inputs, _, _ in flat], max_tokens):
        with torch.inference_mode():
            pieces = forward(backbone, [flat[place][:2] for place in part])
        lines: dict[int, Tensor] = {}
        for piece in pieces:
            parts = piece.values.float().cpu().split(piece.counts)
            lines |= dict(zip(piece.rows, parts, strict=True))
        for place in part:
            said[flat[place][2]].append(lines[place - part.start])
        if bar is not None:
            bar.update(sum(flat[place][3] for place in part))
    return [tuple(row) for row in said]


def evaluate(
    backbone: Backbone, adapter: Adapter, rows: Sequence[Row], *, progress: bool = False
) -> dict[str, float]:
    """An adapter's metrics on labelled rows.

    Raises:
        DataError: A row's label is not one the adapter knows.
    """
    task = adapter.task
    limit = text_limit(backbone, adapter)
    examples = task.examples([row.fields for row in rows], backbone.reader, limit)
    targets = [task.target(row, example) for row, example in zip(rows, examples, strict=True)]
    with tqdm(total=len(rows), unit="row", disable=None if progress else True) as bar:
        said = run(backbone, [(adapter, example) for example in examples], bar=bar)
    return task.metrics(Outputs.of(said), examples, targets)


def _answers(
    adapter: Adapter | None, outputs: Outputs, examples: Sequence[Example]
) -> list[Answer]:
    if adapter is None:
        return [{"adapter": BASE, "vector": line} for line in outputs.lines.tolist()]
    found = adapter.task.answers(outputs, examples)
    return [{"adapter": adapter.name, **answer} for answer in found]
