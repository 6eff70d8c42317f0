"""Answers for any mix of adapters over one backbone, adapters coming and going."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..adapter.adapter import BASE, Adapter, check_name
from ..adapter.folder import check_backbone, load_adapter
from ..adapter.stacking import Grounds
from ..backbone.model import Backbone
from ..errors import UnknownAdapterError, did_you_mean
from ..metrics.base import Predictions
from ..tasks.base import Answer, Example, Outputs, Row, Task, Text, tasks
from ..tasks.fields import Fields
from .forward import MAX_TOKENS, by_budget, forward, text_limit
from .labelled import ready
from .lanes import ALONE, Lanes, lanes_of

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
        self._grounds = Grounds()
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
        resident = replace(adapter.to(self.backbone.device), training={})
        self._adapters[adapter.name] = self._grounds.settle(resident)

    def load(
        self,
        folder: str | Path,
        *,
        any_backbone: bool = False,
        on_top_of: str | Path | None = None,
    ) -> str:
        """Loads an adapter folder and makes it ready to answer.

        Args:
            folder: The folder.
            any_backbone: Accept one that was trained on other weights.
            on_top_of: Where an adapter that it stands on lies, if not beside it (`load_adapter`).

        Returns:
            The adapter's name.

        Raises:
            AdapterError: The folder is not sound; what was loaded stays as it was.
        """
        adapter = load_adapter(
            folder, self.backbone, any_backbone=any_backbone, on_top_of=on_top_of
        )
        self.add(adapter, any_backbone=any_backbone)
        return adapter.name

    def unload(self, name: str) -> None:
        """Lets an adapter go.

        Raises:
            UnknownAdapterError: There is none of that name.
        """
        if self._adapters.pop(name, None) is None:
            raise self._unknown(name)

    def find(self, name: str | None) -> Adapter | None:
        """The adapter of a name; None for the plain backbone (None or `base`).

        Raises:
            UnknownAdapterError: There is none of that name.
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
        called: Sequence[str] | None = None,
        progress: bool = False,
    ) -> list[Answer]:
        """Answers a list that may mix adapters, methods and tasks.

        Args:
            requests: Adapter name (None or `base`: the plain backbone) and text or text pair.
            called: What messages call each text, such as its file and row; its number where left
                out.
            progress: Show a progress bar.

        Returns:
            In the order of the requests: `adapter`, what the adapter's task answers, and
            `truncated` where the text was too long; for the plain backbone its `vector`.

        Raises:
            UnknownAdapterError: A name is not known; nothing is answered then.
            AdapterkitError: A text is empty or not a text.
        """
        # Every name is looked up once: a swap midway cannot split a call between two adapters.
        named = {name: self.find(name) for name, _ in requests}
        owners = [named[name] for name, _ in requests]
        examples = read(self.backbone, owners, [text for _, text in requests], called)
        with tqdm(total=len(requests), unit="text", disable=None if progress else True) as bar:
            rows = list(zip(owners, examples, strict=True))
            lanes = lanes_of(self.backbone.device)
            return answer(self.backbone, rows, self.max_tokens, bar, lanes)

    def _unknown(self, name: str) -> UnknownAdapterError:
        hint = did_you_mean(name, self.names)
        return UnknownAdapterError(f"there is no adapter '{name}' here; {hint}")


def read(
    backbone: Backbone,
    owners: Sequence[Adapter | None],
    asked: Sequence[Text],
    called: Sequence[str] | None = None,
) -> list[Example]:
    """What is asked as each adapter's task reads it, cut to each adapter's limit.

    Raises:
        AdapterkitError: A text is empty or not a text.
    """
    names = called or [f"text {number}" for number in range(1, len(asked) + 1)]
    rows: list[Fields] = []
    together: dict[tuple[int, Task], list[int]] = {}
    for place, (owner, text, where) in enumerate(zip(owners, asked, names, strict=True)):
        task = owner.task if owner is not None else PLAIN
        rows.append(task.fields(text, where))
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
    lanes: Lanes = ALONE,
) -> list[tuple[Tensor, ...]]:
    """Examples through the one forward, under a token budget.

    Args:
        backbone: The backbone.
        rows: Adapter and example of each row.
        max_tokens: Most tokens in one packed batch.
        bar: A progress bar to move on, a step a row.
        lanes: Where batches are computed side by side.

    Returns:
        For each row its sequences' lines, `[lines, C]` each, float32 on the CPU; of an ensemble
        their mean over the members, the one place where members meet.
    """
    # An adapter's rows stand together, so that as few batches as can be have to gather it, and a
    # row's members do, so that what they share of it is computed once.
    first: dict[int, int] = {}
    order = sorted(range(len(rows)), key=lambda row: first.setdefault(id(rows[row][0]), len(first)))
    flat = [
        (member, inputs, row)
        for row in order
        for member in members_of(rows[row][0])
        for inputs in rows[row][1].inputs
    ]
    sizes = [len(inputs) for _, inputs, _ in flat]
    last = {row: place for place, (_, _, row) in enumerate(flat)}

    def through(part: range) -> list[tuple[int, Tensor]]:
        with torch.inference_mode():
            pieces = forward(backbone, [flat[place][:2] for place in part])
            values = fetched([piece.values for piece in pieces])
        return [
            (part.start + place, lines)
            for piece, said in zip(pieces, values, strict=True)
            for place, lines in zip(piece.rows, said.split_with_sizes(piece.counts), strict=True)
        ]

    said: list[list[Tensor]] = [[] for _ in rows]
    parts = list(by_budget(sizes, lanes.budget(sizes, max_tokens)))
    for found in lanes.map(through, parts):
        for place, lines in sorted(found, key=lambda pair: pair[0]):
            said[flat[place][2]].append(lines)
        if bar is not None:
            bar.update(sum(last[flat[place][2]] == place for place, _ in found))
    return [
        _averaged(lines, len(members_of(adapter)))
        for (adapter, _), lines in zip(rows, said, strict=True)
    ]


def fetched(values: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one device on the CPU, float32, from a GPU in one copy: the wait for each would
    be longer than it takes."""
    if values[0].device.type == "cpu":
        return [one.float() for one in values]
    flat = torch.cat([one.float().flatten() for one in values]).cpu()
    parts = flat.split([one.numel() for one in values])
    return [part.view(one.shape) for part, one in zip(parts, values, strict=True)]


def members_of(adapter: Adapter | None) -> Sequence[Adapter | None]:
    """All that compute a row asked of an adapter: the members of an ensemble, itself for most."""
    return (None,) if adapter is None else adapter.members


def n_tokens(adapter: Adapter | None, example: Example) -> int:
    """Tokens that are computed to answer a row."""
    return len(members_of(adapter)) * sum(map(len, example.inputs))


def _averaged(lines: Sequence[Tensor], members: int) -> tuple[Tensor, ...]:
    """A row's lines, member after member, to their mean over the members, sequence by sequence."""
    if members == 1:
        return tuple(lines)
    n = len(lines) // members
    return tuple(torch.stack(list(lines[place::n])).mean(0) for place in range(n))


def answer(
    backbone: Backbone,
    rows: Sequence[tuple[Adapter | None, Example]],
    max_tokens: int = MAX_TOKENS,
    bar: Any = None,
    lanes: Lanes = ALONE,
) -> list[Answer]:
    """Examples of any adapters to what each adapter's task answers, in their order.

    Args:
        backbone: The backbone.
        rows: Adapter (None: the plain backbone) and example of each row.
        max_tokens: Most tokens in one packed batch.
        bar: A progress bar to move on, a step a row.
        lanes: Where batches are computed side by side.
    """
    said = run(backbone, rows, max_tokens, bar, lanes)
    asked: dict[int, list[int]] = {}
    for place, (adapter, _) in enumerate(rows):
        asked.setdefault(id(adapter), []).append(place)
    answers: list[Answer] = [{} for _ in rows]
    for places in asked.values():
        outputs = Outputs.of([said[place] for place in places])
        found = _answers(rows[places[0]][0], outputs, [rows[place][1] for place in places])
        for place, one in zip(places, found, strict=True):
            answers[place] = {**one, "truncated": True} if rows[place][1].truncated else one
    return answers


def predictions(
    backbone: Backbone, adapter: Adapter, rows: Sequence[Row], *, progress: bool = False
) -> Predictions:
    """What an adapter says of labelled rows beside what is right.

    Raises:
        DataError: A row's label is not one the adapter knows.
    """
    split = ready(backbone, adapter, rows).judged(adapter.task)
    with tqdm(total=len(rows), unit="row", disable=None if progress else True) as bar:
        said = run(backbone, [(adapter, example) for example in split.examples], bar=bar)
    return split.predictions(adapter.task, Outputs.of(said))


def evaluate(
    backbone: Backbone, adapter: Adapter, rows: Sequence[Row], *, progress: bool = False
) -> dict[str, float]:
    """An adapter's metrics on labelled rows.

    Raises:
        DataError: A row's label is not one the adapter knows.
    """
    return adapter.task.metrics(predictions(backbone, adapter, rows, progress=progress))


def _answers(
    adapter: Adapter | None, outputs: Outputs, examples: Sequence[Example]
) -> list[Answer]:
    if adapter is None:
        return [{"adapter": BASE, "vector": line} for line in outputs.lines.tolist()]
    found = adapter.task.answers(outputs, examples)
    return [{"adapter": adapter.name, **answer} for answer in found]
