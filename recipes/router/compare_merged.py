"""Compare one call to six adapters with six merged models of transformers, on the same requests.

    python compare_merged.py merged --store adapters

`merged` holds the models that `adapterkit export --format merged` wrote; README.md has the
commands. First the answers of both are compared. Then both take turns in this process, with the
same number of threads. Both start from texts; transformers tokenises them once for all models, and
its time ends at the logits, which is less work than answers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from route import ADAPTERS, Answers, ask_all
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from adapterkit import AdapterkitError, Predictor, read_records

COUNTS = (1, 16)
"""Numbers of requests that are answered at a time."""


class MergedModels:
    """The checkpoints of all adapters, one model each.

    Args:
        folder: It contains a checkpoint for each adapter, named like it without `router/`.
    """

    def __init__(self, folder: Path) -> None:
        self.models: dict[str, Any] = {}
        for name in ADAPTERS:
            checkpoint = folder / name.partition("/")[2]
            if not checkpoint.is_dir():
                raise AdapterkitError(f"{checkpoint}: there is no such folder; export {name} to it")
            self.models[name] = _load(checkpoint)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)  # the same for all

    @torch.inference_mode()
    def logits(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Name of an adapter to its logits: `[n, C]`, or `[n, t, C]` of a tagger."""
        batch = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return {name: model(**batch).logits for name, model in self.models.items()}

    def labels(self, texts: list[str]) -> dict[str, list[Any]]:
        """Name of an adapter to the label of each text; of a tagger, the tags of its words."""
        words = [self.tokenizer(text, truncation=True).word_ids() for text in texts]
        found: dict[str, list[Any]] = {}
        for name, logits in self.logits(texts).items():
            names = self.models[name].config.id2label
            best = logits.argmax(-1).tolist()
            if logits.ndim == 2:
                found[name] = [names[index] for index in best]
            else:
                found[name] = [
                    [names[row[token]] for token in _first_tokens(ids)]
                    for row, ids in zip(best, words, strict=True)
                ]
        return found


def _load(checkpoint: Path) -> Any:
    """The model of a checkpoint, a tagger or a classifier of texts."""
    (architecture,) = AutoConfig.from_pretrained(checkpoint).architectures
    is_tagger = architecture.endswith("TokenClassification")
    kind = AutoModelForTokenClassification if is_tagger else AutoModelForSequenceClassification
    return kind.from_pretrained(checkpoint).eval()


def _first_tokens(word_ids: list[int | None]) -> list[int]:
    """The place of each word's first token."""
    places: dict[int, int] = {}
    for place, word in enumerate(word_ids):
        if word is not None:
            places.setdefault(word, place)
    return list(places.values())


def count_equal(answers: list[Answers], labels: dict[str, list[Any]]) -> int:
    """How many answers of the adapters are those of the merged models."""
    pairs = [
        (by_name[name].get("label", by_name[name].get("tags")), labels[name][index])
        for index, by_name in enumerate(answers)
        for name in ADAPTERS
    ]
    return sum(one == other for one, other in pairs)


def take_turns(systems: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, by system, in a new random order each round. The first two
    rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(rounds + 2):
        for name in random.Random(number).sample(list(systems), len(systems)):
            began = time.perf_counter()
            systems[name]()
            if number >= 2:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("merged", type=Path, help="folder of the six checkpoints")
    parser.add_argument("--store", default="adapters")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = read_records(Path(__file__).with_name("intent.csv"))
    texts = [str(record["text"]) for _, record in rows][: max(COUNTS)]
    predictor, merged = Predictor.open(ADAPTERS, options.store), MergedModels(options.merged)

    equal = count_equal(ask_all(predictor, texts), merged.labels(texts))
    print(f"{equal} of {len(texts) * len(ADAPTERS)} answers are equal")
    print(f"{options.threads} threads, medians of {options.rounds} rounds")
    for count in COUNTS:
        some = texts[:count]
        times = take_turns(
            {
                "one call": lambda some=some: ask_all(predictor, some),
                "six models": lambda some=some: merged.logits(some),
            },
            options.rounds,
        )
        for system, measured in times.items():
            median, low, high = statistics.median(measured), min(measured), max(measured)
            print(f"{count:2} requests, {system:10}  {median:7.1f} ms ({low:.1f} to {high:.1f})")
        six, one = (statistics.median(times[system]) for system in ("six models", "one call"))
        print(f"{count:2} requests, {six / one:.2f} times as fast in one call")


if __name__ == "__main__":
    try:
        main()
    except AdapterkitError as error:
        sys.exit(f"Error: {error}")
