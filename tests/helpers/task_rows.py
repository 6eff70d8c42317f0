"""Rows and a recipe for every task."""

from __future__ import annotations

import json
import random
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest

from adapterkit.tasks.base import tasks
from adapterkit.training.recipe import Recipe
from helpers.vocabulary import WORDS


def task_rows(kind: str, n: int = 24) -> list[dict[str, Any]]:
    """Rows of a task whose words depend on the answer, values by role."""
    samples = tasks()[kind].sample_rows
    return [dict(samples[i % len(samples)]) for i in range(n)] if samples else _own_rows(kind, n)


def _own_rows(kind: str, n: int) -> list[dict[str, Any]]:
    """Rows of a task of adapterkit."""
    rng = random.Random(3)
    rows: list[Any] = []
    for index in range(n):
        money, text = index % 2 == 0, rng.choices(WORDS[:8], k=rng.randint(2, 6))
        text.insert(rng.randrange(len(text)), "bank" if money else "rain")
        line = " ".join(text)
        at = line.index("bank" if money else "rain")
        rows.append(
            {
                "classification": {"text": line, "label": "money" if money else "weather"},
                "multi_label": {"text": line, "labels": ["money"] if money else []},
                "masked_language_modelling": {"text": f"{line} [MASK]"},
                "regression": {"text": line, "text_pair": "bank", "label": 5.0 * money},
                "embedding": {
                    "text": line,
                    "text_pair": "money is good" if money else "wait for sun",
                },
                "summarisation": {
                    "sentences": _around(line, index % 4),
                    "summary": [index % 4] if money else line,
                },
                "tagging": {"tokens": text, "tags": [_tag(word) for word in text]},
                "relation": {
                    "text": f"{line} card",
                    "head": {"start": at, "end": at + 4},
                    "tail": {"start": len(line) + 1, "end": len(line) + 5},
                    "label": "pays" if money else "wets",
                },
                "multiple_choice": {
                    "text": line,
                    "choices": ["bank", "rain", "tea"],
                    "label": "bank" if money else "rain",
                },
                "question_answering": {
                    "question": "where is money",
                    "context": line,
                    "answers": {"text": ["bank"], "answer_start": [at]}
                    if money
                    else {"text": [], "answer_start": []},
                },
            }[kind]
        )
    return rows


def _around(sentence: str, index: int) -> list[str]:
    """A document of four sentences with the given one at `index`."""
    others = ["please wait", "the tea is not hot", "open the new screen"]
    return [*others[:index], sentence, *others[index:]]


def _tag(word: str) -> str:
    return {"bank": "B-ORG", "rain": "B-SKY"}.get(word, "O")


def task_recipe(kind: str, folder: Path, **changes: Any) -> Recipe:
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps({**row, "split": "train"}) for row in task_rows(kind))
        + "\n"
        + "\n".join(json.dumps({**row, "split": "test"}) for row in task_rows(kind, 10)),
        encoding="utf-8",
    )
    roles = {role: role for role in task_rows(kind, 1)[0]}
    if "pooling" in {field.name for field in fields(cast(Any, tasks()[kind]))}:
        changes = {"pooling": "mean", **changes}
    return Recipe.of(
        {
            "name": f"t/{kind.replace('_', '-')}",
            "data": {"path": "rows.jsonl", "validation": 0, **roles},
            "task": {"type": kind, **changes},
            "method": {"type": "lora"},
            "training": {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2},
        },
        folder,
    )


every_task = pytest.mark.parametrize("kind", sorted(tasks()))
every_divisible_task = pytest.mark.parametrize(
    "kind", sorted(kind for kind, task in tasks().items() if not task.whole_batch)
)
