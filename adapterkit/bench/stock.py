"""Random adapters of every method and several tasks in stores, and what each answers offline."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from ..adapter.adapter import Adapter
from ..adapter.folder import load_adapter
from ..adapter.store import Store
from ..backbone.model import Backbone
from ..inference.predictor import Predictor
from ..tasks.base import tasks
from ..tasks.types import Text
from .workload import labelled_rows, random_adapter

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {"r": 4}),
    ("prefix", {"num_virtual_tokens": 4}),
    ("bottleneck", {"size": 4}),
)
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("classification", {"pooling": "mean"}),
    ("tagging", {"labels": ("O", "B-A", "I-A", "B-B")}),
    ("regression", {"pooling": "mean"}),
    ("question_answering", {}),
)
N_TEXTS = 12

CLOSE = 2e-3
"""What numbers may differ by: a batch of other rows rounds otherwise."""


class Stock:
    """Adapters that differ in nothing from trained ones but their numbers.

    Args:
        backbone: Of the expected answers.
        work: A folder for stores.

    Attributes:
        texts: What they are asked.
    """

    def __init__(self, backbone: Backbone, work: Path) -> None:
        self.backbone = backbone
        self.work = work
        self.texts, _ = labelled_rows(backbone.tokenizer, N_TEXTS)

    def store(self, n: int) -> tuple[Store, list[Adapter]]:
        """A store of n adapters of three methods and four tasks, of ten tenants."""
        return self._filled(f"store{n}", [self._adapter(number) for number in range(n)])

    def alike(self, n: int) -> tuple[Store, list[Adapter]]:
        """A store of n classifiers that differ in their numbers alone, of ten tenants."""
        return self._filled(f"alike{n}", [self._plain(number) for number in range(n)])

    def _filled(self, name: str, adapters: list[Adapter]) -> tuple[Store, list[Adapter]]:
        store = Store(self.work / name)
        if not store.root.exists():
            for adapter in tqdm(adapters, "publish", unit="adapter", leave=False):
                store.publish(adapter, self.backbone.geometry)
        return store, adapters

    def _plain(self, number: int) -> Adapter:
        plain = random_adapter(self.backbone, "lora", {"r": 4}, number, 4)
        return replace(plain, name=f"t{number % 10}/p{number}")

    def _adapter(self, number: int) -> Adapter:
        method, settings = METHODS[number % len(METHODS)]
        kind, task_settings = KINDS[number // len(METHODS) % len(KINDS)]
        plain = random_adapter(self.backbone, method, settings, number, 2 + number % 9)
        made: Any = tasks()[kind]
        labels = {"labels": tuple(f"label {i}" for i in range(2 + number % 9))}
        task = made(**task_settings, **(labels if kind == "classification" else {}))
        generator = torch.Generator().manual_seed(number)
        head = {
            name: torch.randn(shape, generator=generator) * 0.2
            for name, shape in task.head_shapes(self.backbone.geometry.hidden).items()
        }
        return replace(plain, name=f"t{number % 10}/a{number}", task=task, head=head)

    def many(self, n: int) -> tuple[Store, int]:
        """A store of n small adapters, each different, and the bytes of one in memory."""
        store = Store(self.work / f"many{n}")
        for number in tqdm(range(n), "publish", unit="adapter", leave=False):
            adapter = self._small(number)
            store.publish(adapter, self.backbone.geometry)
        from ..serving.adapter_cache import OVERHEAD

        return store, self._small(0).n_bytes + OVERHEAD

    def _small(self, number: int) -> Adapter:
        plain = random_adapter(self.backbone, "lora", {"r": 2, "layers": (4, 5)}, number, 4)
        generator = torch.Generator().manual_seed(number)
        head = {k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in plain.head.items()}
        return replace(plain, name=f"t{number}/task", head=head)

    def wanted(self, adapters: Sequence[Adapter]) -> dict[str, list[Any]]:
        """Each adapter's answer to each text, computed offline."""
        predictor = Predictor(self.backbone, adapters)
        asked = [(a.name, self.row(a, text)) for a in adapters for text in self.texts]
        said = [bare(json.loads(json.dumps(one))) for one in predictor(asked)]
        step = len(self.texts)
        return {a.name: said[i * step : (i + 1) * step] for i, a in enumerate(adapters)}

    def row(self, adapter: Adapter, text: str) -> Text:
        """A text as an adapter's task reads it."""
        return row_of(adapter.task.type, text, self.texts[0])

    def rate(self, predictor: Predictor, adapters: Sequence[Adapter], seconds: float) -> float:
        """Rows a second of the same rows without a server, in lists of 64."""
        rng = random.Random(1)
        rates, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            drawn = [(rng.choice(adapters), rng.choice(self.texts)) for _ in range(64)]
            began = time.perf_counter()
            predictor([(a.name, self.row(a, text)) for a, text in drawn])
            rates.append(64 / (time.perf_counter() - began))
        return round(median(rates), 1)

    def wrong(self, store: Store, kept: Mapping[tuple[int, int], list[Any]]) -> int:
        """Answers that are not the offline ones.

        Args:
            store: A store of `many`.
            kept: Numbers of adapter and text to what was answered.
        """
        wrong = 0
        for (number, text), answers in kept.items():
            adapter = load_adapter(store.path(f"t{number}/task"), self.backbone)
            adapter = replace(adapter, name=f"t{number}/task")
            (goal,) = Predictor(self.backbone, [adapter])([(adapter.name, self.texts[text])])
            wrong += sum(not near(bare(answer), bare(goal)) for answer in answers)
        return wrong


def row_of(kind: str, text: str, context: str) -> Text:
    """A text as a kind of task reads it."""
    return {"question": text, "context": context} if kind == "question_answering" else text


def bare(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without what names its adapter."""
    return {k: v for k, v in answer.items() if k not in ("adapter", "adapter_id", "version")}


def near(got: Any, goal: Any) -> bool:
    """Whether two answers are equal, numbers but for rounding."""
    if isinstance(goal, dict):
        return bool(got.keys() == goal.keys()) and all(near(got[k], goal[k]) for k in goal)
    if isinstance(goal, list):
        return len(got) == len(goal) and all(map(near, got, goal))
    if isinstance(goal, float):
        return bool(abs(got - goal) <= CLOSE * max(1.0, abs(goal)))
    return bool(got == goal)
