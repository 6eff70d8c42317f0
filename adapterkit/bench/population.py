"""Stores of random adapters of several methods and tasks, and the answers of each, offline."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
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

BATCH_ROWS = 64
"""Rows of a batch when the rate without a server is measured."""

TOLERANCE = 2e-3
"""Relative difference of two equal numbers: rounding depends on the other rows of a batch."""


class Population:
    """Makes adapters that differ from trained ones in their numbers only.

    Args:
        backbone: The backbone that computes the expected answers.
        work: A folder for the stores.

    Attributes:
        texts: The texts that the adapters answer.
    """

    def __init__(self, backbone: Backbone, work: Path) -> None:
        self.backbone = backbone
        self.work = work
        self.texts, _ = labelled_rows(backbone.tokenizer, N_TEXTS)

    def mixed_store(self, n: int) -> tuple[Store, list[Adapter]]:
        """A store of n adapters of three methods, four tasks and ten tenants."""
        return self._published(f"mixed{n}", [self._of_any_kind(number) for number in range(n)])

    def uniform_store(self, n: int) -> tuple[Store, list[Adapter]]:
        """A store of n classifiers of one shape and of ten tenants."""
        return self._published(f"uniform{n}", [self._classifier(number) for number in range(n)])

    def large_store(self, n: int) -> tuple[Store, int]:
        """A store of n small adapters, each different.

        Returns:
            The store, and the bytes that one adapter takes in a server's memory.
        """
        from ..serving.engine.adapter_cache import OVERHEAD

        store = Store(self.work / f"large{n}")
        for number in tqdm(range(n), "publish", unit="adapter", leave=False):
            store.publish(self._small(number), self.backbone.geometry)
        return store, self._small(0).n_bytes + OVERHEAD

    def _published(self, name: str, adapters: list[Adapter]) -> tuple[Store, list[Adapter]]:
        store = Store(self.work / name)
        if not store.root.exists():
            for adapter in tqdm(adapters, "publish", unit="adapter", leave=False):
                store.publish(adapter, self.backbone.geometry)
        return store, adapters

    def _classifier(self, number: int) -> Adapter:
        adapter = random_adapter(self.backbone, "lora", {"r": 4}, number, 4)
        return replace(adapter, name=f"t{number % 10}/p{number}")

    def _of_any_kind(self, number: int) -> Adapter:
        method, settings = METHODS[number % len(METHODS)]
        kind, task_settings = KINDS[number // len(METHODS) % len(KINDS)]
        adapter = random_adapter(self.backbone, method, settings, number, 2 + number % 9)
        task_class: Any = tasks()[kind]
        labels = {"labels": tuple(f"label {i}" for i in range(2 + number % 9))}
        task = task_class(**task_settings, **(labels if kind == "classification" else {}))
        shapes = task.head_shapes(self.backbone.geometry.hidden)
        head = _random_tensors(shapes, number)
        return replace(adapter, name=f"t{number % 10}/a{number}", task=task, head=head)

    def _small(self, number: int) -> Adapter:
        settings = {"r": 2, "layers": (4, 5)}
        adapter = random_adapter(self.backbone, "lora", settings, number, 4)
        head = _random_tensors({k: tuple(v.shape) for k, v in adapter.head.items()}, number)
        return replace(adapter, name=f"t{number}/task", head=head)

    def expected_answers(self, adapters: Sequence[Adapter]) -> dict[str, list[Any]]:
        """The answers of each adapter to each text, computed offline."""
        predictor = Predictor(self.backbone, adapters)
        requests = [(a.name, self.input_of(a, text)) for a in adapters for text in self.texts]
        answers = iter(
            # As a client reads them: tuples become lists.
            [without_adapter(json.loads(json.dumps(answer))) for answer in predictor(requests)]
        )
        return {adapter.name: [next(answers) for _ in self.texts] for adapter in adapters}

    def input_of(self, adapter: Adapter, text: str) -> Text:
        """A text in the form that an adapter's task reads."""
        return task_input(adapter.task.type, text, self.texts[0])

    def offline_rate(
        self, predictor: Predictor, adapters: Sequence[Adapter], seconds: float
    ) -> float:
        """Rows a second without a server: the median over batches of random rows."""
        rng = random.Random(1)
        rates, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            drawn = [(rng.choice(adapters), rng.choice(self.texts)) for _ in range(BATCH_ROWS)]
            began = time.perf_counter()
            predictor([(a.name, self.input_of(a, text)) for a, text in drawn])
            rates.append(BATCH_ROWS / (time.perf_counter() - began))
        return round(median(rates), 1)

    def count_wrong(self, store: Store, received: Mapping[tuple[int, int], list[Any]]) -> int:
        """Counts answers that differ from the ones computed offline.

        Args:
            store: A store of `large_store`.
            received: The answers for each pair of adapter number and text index.
        """
        wrong = 0
        for number, pairs in groupby(sorted(received), key=itemgetter(0)):
            indices = [index for _, index in pairs]
            adapter = load_adapter(store.path(f"t{number}/task"), self.backbone)
            adapter = replace(adapter, name=f"t{number}/task")
            expected = self.expected_answers([adapter])[adapter.name]
            wrong += sum(
                not same_answer(without_adapter(answer), expected[index])
                for index in indices
                for answer in received[number, index]
            )
        return wrong


def _random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def task_input(kind: str, text: str, context: str) -> Text:
    """A text in the form that a kind of task reads."""
    return {"question": text, "context": context} if kind == "question_answering" else text


def without_adapter(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without the keys that name its adapter."""
    return {k: v for k, v in answer.items() if k not in ("adapter", "adapter_id", "version")}


def same_answer(answer: Any, expected: Any) -> bool:
    """Whether two answers are equal; numbers may differ by rounding (see `TOLERANCE`)."""
    if isinstance(expected, dict):
        return bool(answer.keys() == expected.keys()) and all(
            same_answer(answer[key], expected[key]) for key in expected
        )
    if isinstance(expected, list):
        return len(answer) == len(expected) and all(map(same_answer, answer, expected))
    if isinstance(expected, float):
        return bool(abs(answer - expected) <= TOLERANCE * max(1.0, abs(expected)))
    return bool(answer == expected)
