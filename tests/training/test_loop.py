"""The loop: what accumulation, seeds and interruptions may not change."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError, DataError
from adapterkit.inference.labelled import Split
from adapterkit.inference.predictor import Predictor
from adapterkit.metrics.base import Predictions
from adapterkit.tasks.base import Task
from adapterkit.tasks.classification import Classification
from adapterkit.tasks.types import Outputs
from adapterkit.training.evaluation import score
from adapterkit.training.optimizer import default_epochs, schedule_factor
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from adapterkit.training.training_section import Training
from helpers.joint_training import assert_same_weights
from helpers.predictions import classes
from helpers.sequences import tokenise

TOPICS = {"money": "money fee bank account card", "weather": "rain sun wait slow fast"}
FILLERS = ["a", "the", "my", "i", "want", "to", "where", "is", "please", "help"]


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose topic shows in most of their words."""
    rng, lines = random.Random(0), ["text,label,split"]
    for n in range(90):
        label = ("money", "weather")[n % 2]
        words = rng.choices(TOPICS[label].split(), k=4) + rng.choices(FILLERS, k=rng.randint(0, 3))
        rng.shuffle(words)
        lines.append(f"{' '.join(words)},{label},{('train', 'train', 'validation')[n % 3]}")
    file = tmp_path_factory.mktemp("rows") / "rows.csv"
    file.write_text("\n".join(lines))
    return file


def plan(rows: Path, method: str = "lora", task: Any = None, **training: Any) -> Recipe:
    settings = {"epochs": 2, "batch_size": 12, "learning_rate": 1e-2, **training}
    return Recipe.of(
        {
            "name": "t/topic",
            "data": {"path": str(rows)},
            "task": {"type": "classification", "pooling": "mean", **(task or {})},
            "method": {"type": method},
            "training": settings,
        }
    )


def run(recipe: Recipe, backbone: Backbone) -> Adapter:
    return train(recipe, backbone, progress=False)


@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck"])
def test_every_method_learns(tiny: Backbone, rows_file: Path, method: str) -> None:
    adapter = run(plan(rows_file, method, epochs=12, batch_size=8), tiny)
    first, *_, last = adapter.training["history"]
    assert last["train_loss"] < 0.7 * first["train_loss"]
    assert adapter.metrics["validation"]["accuracy"] >= 0.8


def test_the_same_seed_trains_the_same_adapter(tiny: Backbone, rows_file: Path) -> None:
    recipe = plan(rows_file, task={"dropout": 0.3})
    first, again = run(recipe, tiny), run(recipe, tiny)
    assert_same_weights(first, again)
    assert first.training["losses"] == again.training["losses"]
    other = run(plan(rows_file, task={"dropout": 0.3}, seed=1), tiny)
    assert first.training["losses"] != other.training["losses"]


@pytest.mark.parametrize("pieces", [2, 5, 12])
def test_accumulation_equals_the_large_batch(tiny: Backbone, rows_file: Path, pieces: int) -> None:
    content = plan(rows_file, task={"dropout": 0.3}).plain()
    content["method"]["dropout"] = 0.2
    whole = run(Recipe.of(content), tiny)
    content["training"]["accumulation"] = pieces
    assert_same_weights(run(Recipe.of(content), tiny), whole, tolerance=2e-4)


def test_the_best_epoch_is_kept_and_the_history_tells_why(tiny: Backbone, rows_file: Path) -> None:
    adapter = run(plan(rows_file, epochs=6, learning_rate=0.05), tiny)
    history = adapter.training["history"]
    best = max(entry["validation"]["accuracy"] for entry in history)
    kept = next(e for e in history if e["epoch"] == adapter.training["epoch"])
    assert kept["validation"]["accuracy"] == best == adapter.metrics["validation"]["accuracy"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5, 6]
    last = run(plan(rows_file, epochs=6, learning_rate=0.05, keep_best=False), tiny)
    assert last.training["epoch"] == 6


@pytest.mark.parametrize(
    ("steps_per_epoch", "epochs"), [(1, 24), (9, 23), (10, 20), (66, 4), (67, 3), (10_000, 3)]
)
def test_a_recipe_without_epochs_takes_enough_steps(steps_per_epoch: int, epochs: int) -> None:
    assert default_epochs(steps_per_epoch) == epochs


def test_the_default_epochs_follow_from_the_rows(tiny: Backbone, rows_file: Path) -> None:
    content = plan(rows_file, batch_size=8).plain()
    content["training"]["epochs"] = None
    adapter = run(Recipe.of(content), tiny)
    (n_rows,) = {adapter.training["rows"]["train"]}
    assert len(adapter.training["history"]) == default_epochs(-(-n_rows // 8))


def test_patience_ends_a_run_that_gets_no_better(tiny: Backbone, rows_file: Path) -> None:
    adapter = run(plan(rows_file, epochs=30, learning_rate=0.02, patience=2), tiny)
    history = adapter.training["history"]
    assert len(history) < 30
    assert history[-1]["epoch"] - adapter.training["epoch"] == 2


class Overflown(Split):
    """Rows with an infinite loss."""

    def loss(self, task: Task, outputs: Outputs) -> float:
        return math.inf

    def predictions(self, task: Task, outputs: Outputs) -> Predictions:
        return classes(c=2)


def test_a_loss_that_is_not_finite_is_no_score() -> None:
    task, outputs = Classification(labels=("a", "b")), Outputs(torch.empty(0), ())
    assert score(task, Overflown([], []), outputs).keys() == {"accuracy", "f1_macro"}


def test_without_validation_the_last_epoch_is_kept(tiny: Backbone, rows_file: Path) -> None:
    content = plan(rows_file).plain()
    rows = rows_file.read_text().replace(",validation", ",train")
    (file := Path("all.csv").resolve()).write_text(rows)
    content["data"].update(path=str(file), validation=0)
    adapter = run(Recipe.of(content), tiny)
    assert adapter.training["epoch"] == 2
    assert adapter.metrics == {}
    assert adapter.training["rows"] == {"train": 90}


@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck"])
def test_training_goes_on_from_a_saved_adapter(
    tiny: Backbone, rows_file: Path, tmp_path: Path, method: str
) -> None:
    first = run(plan(rows_file, method, epochs=4), tiny)
    saved = save_adapter(first, tmp_path / "first", tiny.geometry)
    content = plan(rows_file, method, epochs=1, start_from=str(saved), learning_rate=1e-6).plain()
    content["training"]["head_learning_rate"] = 1e-6
    if method == "prefix":
        content["method"]["projection"] = True
    second = run(Recipe.of(content), tiny)
    assert_same_weights(second, first, tolerance=1e-4)
    assert second.method == first.method


def test_training_does_not_go_on_from_what_does_not_fit(
    tiny: Backbone, rows_file: Path, tmp_path: Path
) -> None:
    first = run(plan(rows_file, epochs=1), tiny)
    saved = save_adapter(first, tmp_path / "a", tiny.geometry)
    with pytest.raises(AdapterkitError, match=r"start_from: .* the recipe asks for prefix$"):
        run(plan(rows_file, "prefix", start_from=str(saved)), tiny)
    content = plan(rows_file, start_from=str(saved)).plain()
    content["method"]["r"] = 7
    with pytest.raises(AdapterkitError, match=r"has r: \d, the recipe r: 7; make them equal"):
        run(Recipe.of(content), tiny)
    content = plan(rows_file, start_from=str(saved)).plain()
    content["method"]["alpha"] = 7.0
    with pytest.raises(AdapterkitError, match=r"has alpha: 16.0, the recipe alpha: 7.0; make"):
        run(Recipe.of(content), tiny)


def test_bfloat16_mixed_precision_trains_a_float32_adapter(tiny: Backbone, rows_file: Path) -> None:
    adapter = run(plan(rows_file, mixed_precision="bf16", epochs=12, batch_size=8), tiny)
    assert adapter.metrics["validation"]["accuracy"] >= 0.8
    assert {t.dtype for t in adapter.tensors.values()} == {torch.float32}


def test_fp16_on_a_cpu_says_that_it_does_nothing(
    tiny: Backbone, rows_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = run(plan(rows_file, mixed_precision="fp16", epochs=1), tiny)
    assert sum("fp16 does nothing on a CPU" in message for message in caplog.messages) == 1
    assert_same_weights(half, run(plan(rows_file, epochs=1), tiny))


def test_a_loss_that_is_no_number_is_told(tiny: Backbone, rows_file: Path) -> None:
    with pytest.raises(
        DataError, match=r"training loss became nan .* lower training.learning_rate"
    ):
        run(plan(rows_file, "bottleneck", learning_rate=9.9, clip=0.0, epochs=40), _huge(tiny))


def _huge(backbone: Backbone) -> Any:
    """A stand-in whose states overflow."""

    class Huge:
        def __getattr__(self, name: str) -> Any:
            return getattr(backbone, name)

        def __call__(self, *args: Any) -> Any:
            encoded = backbone(*args)
            return replace(encoded, tokens=encoded.tokens * float("inf"))

    return Huge()


def test_the_card_has_all_that_training_was(
    tiny: Backbone, rows_file: Path, tmp_path: Path
) -> None:
    adapter = run(plan(rows_file), tiny)
    folder = Store(tmp_path / "store").publish(adapter, tiny.geometry)
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapterkit.json",
        "report",
    ]
    assert (folder / "report" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    card = json.loads((folder / "adapterkit.json").read_text())
    assert card["training"]["seed"] == 0
    assert card["training"]["data"].startswith("sha256:")
    assert card["metrics"]["validation"] == adapter.metrics["validation"]
    again = Recipe.of(card["training"]["recipe"])
    assert_same_weights(run(again, tiny), adapter)
    loaded = load_adapter(folder, tiny)
    assert loaded.training["history"] == adapter.training["history"]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_climb_then_fall(schedule: Any) -> None:
    share = schedule_factor(Training(schedule=schedule, warmup=0.1), 100)
    rates = [share(step) for step in range(100)]
    assert rates[0] < rates[5] < rates[10] == 1.0
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert (rates[-1] == 1.0) if schedule == "constant" else (rates[-1] < 0.02)


def test_chinese_rows_go_through_recipe_training_and_prediction(
    chinese_folder: Path, shared_data: Path, tmp_path: Path
) -> None:
    lines = (shared_data / "thucnews_titles" / "data.csv").read_text(encoding="utf-8").splitlines()
    some = [line for line in lines[1:] if line.endswith(",train")][:120]
    test_lines = [line for line in lines[1:] if line.endswith(",test")][:20]
    (tmp_path / "titles.csv").write_text(
        "\n".join([lines[0], *some, *test_lines]), encoding="utf-8"
    )
    recipe = Recipe.of(
        {
            "name": "news/titles",
            "backbone": {"model": str(chinese_folder), "device": "cpu"},
            "data": {"path": "titles.csv"},
            "method": {"type": "lora", "targets": ["query", "value", "ffn_up"]},
            "training": {"epochs": 12, "learning_rate": 2e-2, "head_learning_rate": 2e-2},
        },
        tmp_path,
    )
    backbone = recipe.backbone.load(recipe.folder)
    adapter = run(recipe, backbone)
    assert (
        adapter.training["history"][-1]["train_loss"] < adapter.training["history"][0]["train_loss"]
    )
    store = Store(tmp_path / "store")
    predictor = Predictor(backbone)
    predictor.load(store.publish(adapter, backbone.geometry).resolve())
    answers = predictor([("news/titles", "体彩大乐透今晚开奖"), ("news/titles", "北京房价")])
    assert {a["label"] for a in answers} <= set(adapter.task.labels)  # type: ignore[attr-defined]
    tokens = tokenise(backbone, ["体彩大乐透"], None, 32)[0]
    assert len(tokens) == 7
    assert 100 not in tokens.input_ids  # [UNK]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "epochs", "floor"),
    [("lora", 2, 0.925), ("prefix", 5, 0.92), ("bottleneck", 5, 0.92)],
)
def test_banking77_reaches_its_mark(
    minilm: Backbone, shared_data: Path, tmp_path: Path, method: str, epochs: int, floor: float
) -> None:
    recipe = Recipe.of(
        {
            "name": "bank/intent",
            "data": {"path": str(shared_data / "banking77" / "data.csv"), "validation": 0},
            "method": {"type": method},
            "training": {"epochs": epochs},
        }
    )
    adapter = run(recipe, minilm)
    assert adapter.metrics["test"]["accuracy"] >= floor
    folder = Store(tmp_path).publish(adapter, minilm.geometry)
    size = sum(file.stat().st_size for file in folder.rglob("*"))
    assert method != "lora" or size < 500_000


@pytest.mark.parametrize(("epochs", "warned"), [(6, True), (7, False)])
def test_few_steps_are_worth_a_warning(
    tiny: Backbone, epochs: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": "a b", "label": label} for label in "xy" * 6]
    data = {"validation": 0.0}
    training = {"epochs": epochs, "batch_size": 4}
    train(Recipe.of({"name": "t", "data": data, "training": training}), tiny, rows=rows)
    found = [message for message in caplog.messages if "optimiser steps" in message]
    expected = (
        "18 optimiser steps in all will hardly teach anything; raise training.epochs or lower "
        "training.batch_size (4)"
    )
    assert found == ([expected] if warned else [])
