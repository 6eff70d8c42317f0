"""Cross-validation: every row checked once, honest scores, and nothing left behind."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError, RecipeError
from adapterkit.training.cross_validation import cross_validate
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.command_line import assert_one_line, run_command

WORDS = {"银行": ("card", "bank", "account"), "lluvia": ("rain", "sun", "wait")}


def plan(rows: int = 24, task: Any = None, **data: Any) -> Recipe:
    lines = [
        f"{words[n % 3]} {('my', 'the', 'a', 'i')[n % 4]} {n},{label}"
        for n in range(rows // 2)
        for label, words in WORDS.items()
    ]
    Path("rows.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    return Recipe.of(
        {
            "name": "t/topic",
            "data": {"path": "rows.csv", **data},
            "task": {"type": "classification", **(task or {})},
            "method": {"type": "lora", "r": 2},
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "patience": 1},
        }
    )


def test_each_fold_is_what_its_recipe_trains(tiny: Backbone) -> None:
    recipe = plan(folds=3)
    result = cross_validate(recipe, tiny, progress=False)
    assert [entry["fold"] for entry in result["folds"]] == [0, 1, 2]
    assert sum(entry["rows"]["validation"] for entry in result["folds"]) == 24
    last = replace(recipe.training, keep_best=False, patience=None)
    for entry in result["folds"]:
        data = replace(recipe.data, fold=entry["fold"])
        alone = train(replace(recipe, data=data, training=last), tiny, progress=False)
        assert alone.training["epoch"] == 2, "the last epoch, not the fold's best"
        assert entry["metrics"] == alone.metrics["validation"]
        assert entry["rows"] == alone.training["rows"]
    for name in ("loss", "accuracy", "f1_macro"):
        values = [entry["metrics"][name] for entry in result["folds"]]
        assert result["mean"][name] == pytest.approx(mean(values))
        assert result["std"][name] == pytest.approx(stdev(values))


def test_a_label_of_one_fold_alone_is_a_label(tiny: Backbone) -> None:
    recipe = plan(validation=0.5)
    with Path("rows.csv").open("a") as file:
        file.write("\nhelp,sol\n")
    result = cross_validate(recipe, tiny, progress=False)
    assert len(result["folds"]) == 5
    assert sum(entry["rows"]["validation"] for entry in result["folds"]) == 25


def test_a_metric_that_one_fold_leaves_undefined_has_no_mean(tiny: Backbone) -> None:
    result = cross_validate(plan(6, {"extra_metrics": ["roc_auc"]}, folds=4), tiny, progress=False)
    has = ["roc_auc" in entry["metrics"] for entry in result["folds"]]
    assert any(has)
    assert not all(has), "a fold of one row has one label"
    assert result["mean"].keys() == result["std"].keys() == {"loss", "accuracy", "f1_macro"}


def test_copies_in_several_folds_are_worth_a_warning(
    tiny: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = plan(8, folds=4)
    copies = "Card  my 0,银行\n" * 3  # that differ from the first row in case and spaces
    with Path("rows.csv").open("a", encoding="utf-8") as file:
        file.write(f"\n{copies}")
    cross_validate(recipe, tiny, progress=False)
    (warning,) = (message for message in caplog.messages if "another fold" in message)
    assert warning.startswith("t/topic: 4 of 11 rows have the text of a row in another fold (rows.")
    assert warning.endswith("), so the scores are too good; leave copies out")


def test_nothing_is_tuned_on_the_rows_that_judge_it(tiny: Backbone) -> None:
    recipe = plan(task={"type": "multi_label", "threshold": "tuned"})
    with pytest.raises(RecipeError, match=r"^task\.threshold: .* give a number"):
        cross_validate(recipe, tiny)


def test_rows_that_cannot_be_folded_are_told(tiny: Backbone) -> None:
    with pytest.raises(
        DataError, match=r"^t/topic: data\.folds: 30 folds need as many rows, there are 24"
    ):
        cross_validate(plan(folds=30), tiny)


def test_the_command_tells_people_and_programs_and_publishes_nothing(tiny_folder: Path) -> None:
    plan()
    Path("r.yaml").write_text(
        f"""
        name: t/topic
        data: {{path: rows.csv, test: 0.2}}
        method: {{type: lora, r: 2}}
        backbone: {{model: {tiny_folder}, device: cpu}}
        training: {{epochs: 1}}
        """
    )
    before = sorted(os.listdir())
    result = run_command("cross-validate", "r.yaml", "--set", "data.folds=2")
    assert result.code == 0
    header, *lines = result.out.splitlines()
    assert header.split() == ["fold", "loss", "accuracy", "f1_macro"]
    assert [line.split()[0] for line in lines] == ["0", "1", "mean", "std"]
    found = run_command("cross-validate", "r.yaml", "--set", "data.folds=2", "--json").json
    assert found.keys() == {"name", "folds", "mean", "std"}
    assert lines[2].split()[1] == f"{found['mean']['loss']:.4f}"
    assert sorted(os.listdir()) == before
    # A fold of one row leaves the area undefined, and that of the others stays out of the table.
    lines = Path("rows.csv").read_text(encoding="utf-8").splitlines()[:6]
    Path("rows.csv").write_text("\n".join(lines), encoding="utf-8")
    changes = ("--set", "data={path: rows.csv, folds: 3}", "--set", "task.extra_metrics=[roc_auc]")
    result = run_command("cross-validate", "r.yaml", *changes)
    assert result.out.splitlines()[0].split() == ["fold", "loss", "accuracy", "f1_macro"]
    assert [len(line.split()) for line in result.out.splitlines()] == [4] * 6
    words = "r.yaml: data.folds: expected 2 or more, got 1"
    assert_one_line(run_command("cross-validate", "r.yaml", "--set", "data.folds=1"), words)
