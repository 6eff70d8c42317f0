"""Predictions of every kind, with their references."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from adapterkit.metrics.base import Predictions, metric_kinds


def softmax(lines: Any) -> Any:
    powers = np.exp(lines - lines.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def classes(n: int = 60, c: int = 4, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    target = rng.integers(c, size=n)
    lines = rng.normal(size=(n, c)) + 1.5 * np.eye(c)[target]
    return Predictions(lines.argmax(1), target, softmax(lines))


def labels(n: int = 50, c: int = 5, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    target = (rng.random((n, c)) < 0.3).astype(int)
    probabilities = 1 / (1 + np.exp(-rng.normal(size=(n, c)) - 2 * target + 1))
    return Predictions((probabilities >= 0.5).astype(int), target, probabilities)


def numbers(n: int = 40, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=n).round(1)
    return Predictions(target + rng.normal(size=n), target)


def tagged(n: int = 40, seed: int = 0, tags: str = "O O B-A I-A B-B I-B") -> Predictions:
    rng = random.Random(seed)
    target = [rng.choices(tags.split(), k=rng.randrange(9)) for _ in range(n)]
    result = [
        [t if rng.random() < 0.6 else rng.choice(tags.split()) for t in row] for row in target
    ]
    return Predictions(result, target)


SQUAD = [
    ("The Eiffel Tower!", ["eiffel tower"]),
    ("eiffel", ["the eiffel tower", "tower"]),
    ("Denver Broncos", ["Carolina Panthers", "the Denver Broncos", "Broncos"]),
    ("an apple a day", ["apple, day", "Apple"]),
    ("", []),
    ("something", []),
    ("", ["something"]),
    ("the", ["a"]),
    ("", ["the", "cat"]),
    ("U.S. dollars $5", ["US dollars 5"]),
    ("the theatre", ["theatre", "theater"]),
    ("b b c", ["b c c"]),
    ("well-known", ["well known"]),
    ("“quoted”", ["quoted"]),
    ("  two   spaces ", ["two spaces"]),
]

PREDICTIONS: dict[str, Predictions] = {
    "classes": classes(),
    "choices": Predictions(classes().predicted, classes().references),
    "labels": labels(),
    "numbers": numbers(),
    "entities": tagged(),
    "tags": tagged(tags="NOUN VERB ADJ"),
    "ranks": Predictions(np.array([1, 2, 7, 60, 1, 3]), np.full(6, 80)),
    "summaries": Predictions(
        [
            {"text": "tea is hot the bank is slow", "sentences": [0, 2]},
            {"text": "北京很大", "sentences": [1]},
            {"text": "", "sentences": []},
        ],
        [
            {"text": "the bank is very slow", "sentences": [2]},
            {"text": "北京不小", "sentences": [1, 2]},
            {"text": "rain", "sentences": [0]},
        ],
    ),
    "tokens": Predictions(
        [
            [{"token": 7, "surprise": 0.5}, {"token": 8, "surprise": 2.0}],
            [{"token": 9, "surprise": 0.1}],
            [{"token": 9, "surprise": 1.5}, {"token": 1, "surprise": 0.0}],
        ],
        [[{"token": 7}, {"token": 9}], [{"token": 9}], [{"token": 8}, {"token": 1}]],
    ),
    "answers": Predictions(
        [prediction for prediction, _ in SQUAD], [answers for _, answers in SQUAD]
    ),
}
"""By kind; a plug-in's own kind has `sample_predictions`."""


def predictions_of(kind: str) -> Predictions:
    """Some predictions of a kind."""
    if kind in PREDICTIONS:
        return PREDICTIONS[kind]
    found = metric_kinds()[kind].sample_predictions
    assert found is not None, f"{kind}: set sample_predictions, so that its metrics can be tested"
    return found
