"""Thresholds: the best on validation rows, saved in the folder, independent of test rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.card import CARD
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.errors import RecipeError
from adapterkit.inference.predictor import Predictor
from adapterkit.tasks.base import tasks
from adapterkit.tasks.question_answering import Context, SpanTarget
from adapterkit.tasks.types import Example, Outputs
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.vocabulary import WORDS

KINDS: Any = tasks()


def outputs(lines: Any) -> Outputs:
    return Outputs(torch.as_tensor(lines, dtype=torch.float32), ((1,),) * len(lines))


def logits(n: int, c: int, seed: int, shift: float = -2.0) -> tuple[Any, Any]:
    """Logits that are all too low, and targets."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, c)) < np.linspace(0.05, 0.5, c)).astype(int)
    return rng.normal(size=(n, c)) + 2 * targets + shift, targets


def f1_at(probabilities: Any, targets: Any, threshold: float) -> float:
    found = sklearn.metrics.f1_score(
        targets, (probabilities >= threshold).astype(int), zero_division=0
    )
    return float(found)


@pytest.mark.parametrize("seed", range(4))
def test_a_shared_threshold_has_the_best_f1(seed: int) -> None:
    lines, targets = logits(40, 3, seed)
    task = KINDS["multi_label"](labels=("a", "b", "c"), threshold="tuned")
    tuned = task.tune(outputs(lines), [], targets.tolist())
    probabilities = outputs(lines).logits.sigmoid().double().numpy().ravel()
    tried = [f1_at(probabilities, targets.ravel(), cut) for cut in (*probabilities, 0.5)]
    found = tuned.metrics(tuned.predictions(outputs(lines), [], targets.tolist()))
    assert found["f1_micro"] == pytest.approx(max(tried))
    assert (
        found["f1_micro"]
        > task.metrics(task.predictions(outputs(lines), [], targets.tolist()))["f1_micro"]
    )


def test_only_labels_with_enough_rows_have_their_own_threshold() -> None:
    lines, targets = logits(100, 3, 0)
    targets[:, 0] = np.arange(100) < 19
    targets[:, 1] = np.arange(100) < 20
    targets[:, 2] = np.arange(100) < 81  # 19 rows do not have it
    task = KINDS["multi_label"](labels=("a", "b", "c"), threshold="tuned_per_label")
    a, b, c = task.tune(outputs(lines), [], targets.tolist()).threshold
    shared = KINDS["multi_label"](labels=("a", "b", "c"), threshold="tuned")
    assert a == c == shared.tune(outputs(lines), [], targets.tolist()).threshold
    probabilities = outputs(lines).logits.sigmoid().double().numpy()[:, 1]
    best = max(f1_at(probabilities, targets[:, 1], cut) for cut in (*probabilities, 0.5))
    assert f1_at(probabilities, targets[:, 1], b) == pytest.approx(best)


def test_a_threshold_without_effect_is_a_half() -> None:
    task = KINDS["multi_label"](labels=("a", "b"), threshold="tuned")
    no_labels = [[0.0, 0.0]] * 3
    assert task.tune(outputs(np.ones((3, 2))), [], no_labels).threshold == 0.5
    sure = outputs([[90.0, -90.0]] * 3)
    assert task.tune(sure, [], [[1.0, 0.0]] * 3).threshold == 0.5
    fixed = KINDS["multi_label"](labels=("a", "b"), threshold=0.7)
    assert fixed.tune(sure, [], no_labels) is fixed


def test_each_label_is_predicted_by_its_own_threshold() -> None:
    task = KINDS["multi_label"](labels=("a", "b"), threshold=(0.2, 0.8))
    lines = outputs([[-1.0, 1.0], [-2.0, 2.0]])  # probabilities 0.27 0.73, 0.12 0.88
    assert [answer["labels"] for answer in task.answers(lines, [])] == [["a"], ["b"]]
    result = task.predictions(lines, [], [[1.0, 0.0], [0.0, 1.0]])
    assert result.predicted.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (1.0, "expected between 0 and 1, got 1.0"),
        ("tunned", "expected a number or a list or 'tuned' or 'tuned_per_label', got 'tunned'"),
        ([0.5, 0.5], "2 for 3 labels"),
        ([0.5, 0.5, 1.5], "expected between 0 and 1, got 1.5"),
    ],
)
def test_invalid_thresholds_are_refused(threshold: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(Path(), threshold=threshold, labels=["a", "b", "c"])


# Question answering: the score of "no answer" minus that of the best answer.


def outputs_with_excess(excess: list[float], right: list[bool | None]) -> tuple[Any, Any, Any]:
    """Rows whose "no answer" scores `excess` more than their best answer, which is right, wrong, or
    predicted although there is no answer."""
    examples, targets, rows = [], [], []
    for more, is_right in zip(excess, right, strict=True):
        window = torch.zeros(3, 2)
        window[0] = more / 2  # the first token; the third is the only one of the context
        window[1] = -50.0
        rows.append((window,))
        examples.append(Example((), Context("tea", ((None, None, (0, 3)),))))
        texts: tuple[str, ...] = () if is_right is None else ("tea",) if is_right else ("rain",)
        targets.append(SpanTarget(texts, ((0, 0),)))
    return Outputs.of(rows), examples, targets


def squad(**settings: Any) -> Any:
    return KINDS["question_answering"](unanswerable=True, **settings)


@pytest.mark.parametrize("seed", range(4))
def test_a_tuned_null_threshold_has_the_best_f1(seed: int) -> None:
    rng = random.Random(seed)
    excess = [rng.uniform(-8, 8) for _ in range(16)]
    right = [
        rng.choice([True, False, None]) if more < 3 else rng.choice([True, None]) for more in excess
    ]
    result, examples, targets = outputs_with_excess(excess, right)

    def f1(task: Any) -> float:
        return float(task.metrics(task.predictions(result, examples, targets))["f1"])

    tuned = squad(null_threshold="tuned").tune(result, examples, targets)
    tried = [
        f1(squad(null_threshold=cut + tiny)) for cut in (0.0, *excess) for tiny in (-1e-3, 1e-3)
    ]
    assert f1(tuned) == pytest.approx(max(tried))


def test_a_tuned_null_threshold_returns_more_answers() -> None:
    result, examples, targets = outputs_with_excess([2.0, 3.0, 6.0], [True, True, None])
    assert [a["answer"] for a in squad().answers(result, examples)] == ["", "", ""]
    tuned = squad(null_threshold="tuned").tune(result, examples, targets)
    assert 3.0 < tuned.null_threshold < 6.0
    assert [a["answer"] for a in tuned.answers(result, examples)] == ["tea", "tea", ""]
    never = KINDS["question_answering"](unanswerable=False, null_threshold="tuned")
    assert never.tune(result, examples, targets).null_threshold == 0.0


# In training.


def recipe(folder: Path, validation: float = 0.25, **task: Any) -> Recipe:
    rng, lines = random.Random(3), []
    for n in range(64):
        words = rng.choices(WORDS[:8], k=4)
        found = [name for name in ("money", "sky") if rng.random() < 0.4]
        words += [{"money": "bank", "sky": "rain"}[name] for name in found]
        split = "test" if n % 4 == 0 else "train"
        lines.append(json.dumps({"text": " ".join(words), "labels": found, "split": split}))
    if folder != Path():
        (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Recipe.of(
        {
            "name": "t/tuned",
            "data": {"path": "rows.jsonl", "validation": validation},
            "task": {"type": "multi_label", "pooling": "mean", **task},
            "method": {"type": "lora"},
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        },
        folder,
    )


def run(plan: Recipe, backbone: Backbone) -> Adapter:
    return train(plan, backbone, progress=False)


def test_a_tuned_threshold_is_saved_and_used_for_prediction(tiny: Backbone, tmp_path: Path) -> None:
    adapter = run(recipe(tmp_path, threshold="tuned"), tiny)
    plain = run(recipe(tmp_path), tiny)
    task: Any = adapter.task
    assert isinstance(task.threshold, float)
    assert adapter.metrics["validation"]["f1_micro"] > plain.metrics["validation"]["f1_micro"]
    assert adapter.metrics["test"]["loss"] == plain.metrics["test"]["loss"]
    folder = save_adapter(adapter, tmp_path / "a", tiny.geometry)
    card = json.loads((folder / CARD).read_text())
    assert card["task"]["threshold"] == task.threshold
    assert card["training"]["recipe"]["task"]["threshold"] == "tuned"
    low, high = card["training"]["intervals"]["test"]["f1_micro"]
    assert low <= card["metrics"]["test"]["f1_micro"] <= high
    loaded = load_adapter(folder, tiny)
    assert loaded.task == task
    (answer,) = Predictor(tiny, [loaded])([("t/tuned", "bank rain")])
    assert set(answer["labels"]) == {
        name for name, probability in answer["scores"].items() if probability >= task.threshold
    }


def test_the_epoch_is_chosen_by_tuned_scores(tiny: Backbone, tmp_path: Path) -> None:
    adapter = run(recipe(tmp_path, threshold="tuned"), tiny)
    scores = [entry["validation"]["f1_micro"] for entry in adapter.training["history"]]
    assert scores[adapter.training["epoch"] - 1] == max(scores)
    assert adapter.metrics["validation"]["f1_micro"] == max(scores)


def test_thresholds_of_each_label_are_loaded_unchanged(tiny: Backbone, tmp_path: Path) -> None:
    adapter = run(recipe(tmp_path, threshold="tuned_per_label"), tiny)
    task: Any = adapter.task
    assert len(task.threshold) == len(task.labels) == 2
    folder = save_adapter(adapter, tmp_path / "a", tiny.geometry)
    assert load_adapter(folder, tiny).task == task


def test_thresholds_are_tuned_on_validation_rows_only(tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"task.threshold: it is tuned on validation rows"):
        run(recipe(tmp_path, validation=0, threshold="tuned"), tiny)
    chosen: list[int] = []
    kind = KINDS["multi_label"]
    before = kind.tune

    def spy(self: Any, result: Outputs, examples: Any, targets: Any) -> Any:
        chosen.append(len(targets))
        return before(self, result, examples, targets)

    kind.tune = spy
    try:
        adapter = run(recipe(tmp_path, threshold="tuned"), tiny)
    finally:
        kind.tune = before
    rows = adapter.training["rows"]
    assert set(chosen) == {rows["validation"]}
    assert rows["validation"] != rows["test"]
