"""Adapters of the upper layers: one batch for many of them, and training with a cache."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..backbone.load_options import Dtype
from ..backbone.model import Backbone
from ..errors import AdapterkitError
from ..inference.forward import forward
from ..quiet import quiet_warnings
from ..training.recipe import Recipe
from ..training.train import train
from .machine import machine
from .timing import Computation, ratio, spread, take_turns
from .workload import bench_rows, checkpoint, labelled_rows, random_adapter

SEPARATE, SHARED = "answering: a pass for each adapter", "answering: one batch, fanned out"
WITHOUT_CACHE, WITH_CACHE = "training: lower layers anew", "training: lower layers kept"
TRAINING_ROWS = 320


@dataclass(frozen=True)
class FanOutBench:
    """LoRA in the upper half of the layers, on the CPU.

    Attributes:
        backbone: minilm, base (BERT-base's shape, random weights), a folder or a hub name.
        dtype: Dtype of the frozen weights.
        adapters: Number of adapters that answer every text.
        texts: Number of texts, at most the 64 of the short workload.
        epochs: Epochs of training; the first fills the cache.
        rounds: Number of rounds that count.

    Raises:
        AdapterkitError: A number is too small.
    """

    backbone: str = "minilm"
    dtype: Dtype = "float32"
    adapters: int = 16
    texts: int = 16
    epochs: int = 6
    rounds: int = 5

    def __post_init__(self) -> None:
        if min(self.adapters, self.texts, self.epochs, self.rounds) < 1:
            raise AdapterkitError("adapters, texts, epochs and rounds must be at least 1")

    def run(self) -> dict[str, Any]:
        """Measures both ways of answering and of training.

        Returns:
            `bench`, `settings`, `machine`, and `rows`: for each way `ms` (the median) with `min`
            and `max`, `rows_per_second`, and `faster_than_plain`: the time of separate passes, or
            of training without the cache, divided by its own.

        Raises:
            AdapterkitError: The backbone cannot be used.
        """
        with checkpoint(self.backbone) as model, tempfile.TemporaryDirectory() as folder:
            backbone = Backbone.load(str(model), dtype=self.dtype, device="cpu")
            answering = take_turns(self.answering(backbone), self.rounds)
            recipes = self.recipes(model, backbone, Path(folder))
            training = take_turns(
                {name: partial(_train, it, backbone) for name, it in recipes.items()}, self.rounds
            )
        n_answers = self.adapters * min(self.texts, 64)
        return {
            "bench": "fanout",
            "settings": asdict(self),
            "machine": machine(),
            "rows": [
                *_result_rows(answering, SEPARATE, n_answers),
                *_result_rows(training, WITHOUT_CACHE, self.epochs * TRAINING_ROWS),
            ],
        }

    def answering(self, backbone: Backbone) -> Mapping[str, Computation]:
        """Runs of the same texts and adapters: a pass for each adapter, and one batch."""
        upper = upper_layers(backbone)
        adapters = [
            random_adapter(backbone, "lora", {"layers": upper}, index, 2 + index % 9)
            for index in range(self.adapters)
        ]
        inputs = bench_rows("short", backbone)[: self.texts]
        passes = [[(adapter, row) for row in inputs] for adapter in adapters]
        return {
            SEPARATE: partial(_answer, backbone, passes),
            SHARED: partial(_answer, backbone, [[row for part in passes for row in part]]),
        }

    def recipes(self, model: Path, backbone: Backbone, folder: Path) -> dict[str, Recipe]:
        """Recipes of one training, without and with a cache of the lower layers' outputs."""
        pairs = zip(*labelled_rows(backbone.tokenizer, TRAINING_ROWS), strict=True)
        rows = [json.dumps({"text": text, "label": label}) for text, label in pairs]
        (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
        return {
            name: Recipe.of(
                {
                    "name": "bench",
                    "data": {"path": "rows.jsonl", "validation": 0.0},
                    "backbone": {"model": str(model), "dtype": self.dtype, "device": "cpu"},
                    "method": {"type": "lora", "layers": list(upper_layers(backbone))},
                    "training": {"epochs": self.epochs, "cache_mb": cache_mb},
                },
                folder,
            )
            for name, cache_mb in ((WITHOUT_CACHE, 0), (WITH_CACHE, 1024))
        }


def upper_layers(backbone: Backbone) -> tuple[int, ...]:
    """Indices of the upper half of the layers."""
    return tuple(range(backbone.geometry.layers // 2, backbone.geometry.layers))


def _answer(backbone: Backbone, batches: list[list[Any]]) -> None:
    with torch.inference_mode():
        for rows in batches:
            forward(backbone, rows)


def _train(recipe: Recipe, backbone: Backbone) -> None:
    with quiet_warnings():
        train(recipe, backbone, progress=False)


def _result_rows(times: Mapping[str, list[float]], plain: str, n_rows: int) -> list[dict[str, Any]]:
    lines = []
    for name, measured in times.items():
        line: dict[str, Any] = {"system": name, **spread(measured, "ms")}
        line["rows_per_second"] = round(1000 * n_rows / line["ms"])
        line["faster_than_plain"] = ratio(times[plain], measured)
        lines.append(line)
    return lines
