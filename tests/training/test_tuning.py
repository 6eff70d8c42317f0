"""Searches: what they find, how they go on, and what they refuse."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import optuna
import pytest
from filelock import FileLock

from adapterkit import AdapterkitError, Callback, Recipe, train, train_many, tune
from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import TrainingInterruptedError
from adapterkit.training import trial_group, tuning
from adapterkit.training.callbacks.base import Event
from adapterkit.training.plan import load_rows
from adapterkit.training.pruning import Pruning
from adapterkit.training.study import FIRST_UNPRUNED, WARM_UP, median_scores
from adapterkit.training.train import StoppedError
from adapterkit.training.trial_group import MedianJudge, TrialOutcome
from adapterkit.training.tuning_table import tuning_table
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_refused, run_command, write_recipe
from helpers.joint_training import assert_equals_solo, write_rows

SEARCH: dict[str, Any] = {
    "training.learning_rate": {"low": 1e-5, "high": 3e-2, "log": True},
    "method.r": [2, 4],
}


def recipe(search: Any = SEARCH, **training: Any) -> Recipe:
    rows = Path(write_rows(1, 30))
    text = rows.read_text(encoding="utf-8")
    rows.write_text(text + "\nbank card,money,test\nrain sun,weather,test", encoding="utf-8")
    return Recipe.of(
        {
            "name": "a/t",
            "data": {"path": str(rows)},
            "method": {"r": 2},
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, **training},
            "search": search,
        }
    )


def test_the_best_trial_is_kept_and_its_test_rows_are_scored_once(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def trained(recipes: Any, *args: Any, **options: Any) -> Any:
        seen.append(sorted({name for rows in options["rows"].values() for name in rows}))
        return real(recipes, *args, **options)

    real = train_many
    for module in (trial_group, tuning):
        monkeypatch.setattr(module, "train_many", trained)
    plan = recipe()
    result = tune(plan, tiny, trials=5, parallel=3, progress=False)
    assert seen == [["train", "validation"]] * 2 + [["test", "train", "validation"]]
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3, 4]
    assert result.trials[0].values == {"training.learning_rate": 5e-3, "method.r": 2}
    scores = [trial.score for trial in result.trials if trial.state == "complete"]
    assert result.best.score == max(score for score in scores if score is not None)
    assert result.adapter.metrics["validation"]["accuracy"] == pytest.approx(result.best.score)
    assert "test" in result.adapter.metrics
    assert result.recipe.training.learning_rate == result.best.values["training.learning_rate"]
    assert_equals_solo(result.adapter, train(result.recipe, tiny, progress=False))


def test_a_search_goes_on_with_the_same_file_and_refuses_another_one(tiny: Backbone) -> None:
    plan, file = recipe(), Path("s.db")
    first = tune(plan, tiny, trials=2, parallel=2, study=file, progress=False)
    second = tune(plan, tiny, trials=3, parallel=2, study=file, progress=False)
    assert second.trials[:2] == first.trials
    assert len(second.trials) == 3
    assert len({tuple(trial.values.values()) for trial in second.trials}) == 3
    with pytest.raises(AdapterkitError, match=r"^s\.db: .* another search \(other recipe\)"):
        tune(recipe(seed=5), tiny, trials=3, study=file, progress=False)
    with FileLock(".s.db.lock"), pytest.raises(AdapterkitError, match="another process searches"):
        tune(plan, tiny, trials=4, study=file, progress=False)
    Path("text.db").write_text("no database")
    with pytest.raises(AdapterkitError, match=r"^text\.db: cannot be used as the file"):
        tune(plan, tiny, trials=1, study="text.db", progress=False)


def test_adapters_that_the_recipe_names_are_those_of_the_store(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    store = Store("shelf")
    ground = make_adapter(tiny, name="a/ground")
    folder = store.publish(ground, tiny.geometry)
    plan = recipe({"training.learning_rate": [5e-3, 1e-3]}, epochs=1, on_top_of="a/ground")
    result = tune(plan, tiny, trials=1, study="s.db", store=store, progress=False)
    below = result.adapter.on_top_of
    assert below is not None
    assert below.digest == load_adapter(folder, tiny).digest
    assert [path.name for path in Path("shelf/a").iterdir()] == ["ground"]
    store.publish(make_adapter(tiny, name="a/ground", seed=5), tiny.geometry)
    words = r"^s\.db: .* another search \(other adapters below\)"
    with pytest.raises(AdapterkitError, match=words):
        tune(plan, tiny, trials=2, study="s.db", store=store, progress=False)


def test_a_run_below_the_median_is_pruned(tiny: Backbone) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(1))
    good = study.ask()
    for epoch in range(1, 6):
        good.report(0.99, step=epoch)
    study.tell(good, 0.99)
    plans = [replace(recipe(epochs=5, seed=seed), name=f"t/{seed}") for seed in (1, 2)]
    epochs: list[int] = []
    pruning = Pruning({plan.name: study.ask() for plan in plans}, epochs.append)
    adapters = train_many(plans, tiny, callbacks=[pruning], progress=False)
    assert pruning.pruned == {"t/1", "t/2"}
    assert [len(adapter.training["history"]) for adapter in adapters] == [1, 1]
    assert epochs == [1]


def test_a_trial_whose_score_is_undefined_has_failed(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Undefined(Callback):
        order: ClassVar[int] = 25  # after the evaluation

        def on_epoch(self, event: Event) -> None:
            for run in event.runs:
                del run.history[-1]["validation"]["accuracy"]

    def trained(*args: Any, callbacks: Any, **options: Any) -> Any:
        adapters = train_many(*args, callbacks=[*callbacks, Undefined()], **options)
        scores = [dict(adapter.metrics["validation"]) for adapter in adapters]
        del scores[0]["accuracy"]
        metrics = [{"validation": one} for one in scores]
        return [replace(a, metrics=own) for a, own in zip(adapters, metrics, strict=True)]

    monkeypatch.setattr(trial_group, "train_many", trained)
    plan = recipe(epochs=1)
    rows = {name: part for name, part in load_rows(plan).items() if name != "test"}
    outcomes = trial_group.train_trials([plan], tiny, rows, {"a/t": MedianJudge({})}, int)
    words = "the validation rows leave accuracy undefined"
    assert outcomes == {"a/t": TrialOutcome(None, 1, words)}


def test_a_judge_elsewhere_decides_as_the_median_pruner() -> None:
    """On a hundred random trials, some of which end early."""
    rng, decisions = random.Random(0), []
    pruner = optuna.pruners.MedianPruner(FIRST_UNPRUNED, WARM_UP)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for _ in range(100):
        trial, judge = study.ask(), MedianJudge(median_scores(study))
        for epoch in range(1, rng.randint(2, 6)):
            score = rng.random()
            trial.report(score, step=epoch)
            judge.report(score, step=epoch)
            decisions.append((judge.should_prune(), trial.should_prune()))
            if decisions[-1][1]:
                break
        study.tell(trial, score)
    assert all(judged == pruned for judged, pruned in decisions)
    assert 20 < sum(judged for judged, _ in decisions) < 90


class WorkersHere:
    """A cluster whose workers are this process."""

    n_workers = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def map(self, work: Any, groups: Any) -> Any:
        self.sizes += [len(group.recipes) for group in groups]
        return map(work, pickle.loads(pickle.dumps(groups)))


def test_trials_are_divided_among_workers(tiny: Backbone, tiny_folder: Path) -> None:
    workers = WorkersHere()
    with pytest.raises(AdapterkitError, match=r"name it in the recipe \(backbone.model\)$"):
        tune(recipe(), tiny, trials=1, cluster=cast("Any", workers), progress=False)
    workers.sizes.clear()
    plan = recipe(epochs=3)
    plan = replace(plan, backbone=replace(plan.backbone, model=str(tiny_folder), device="cpu"))
    found = tune(plan, tiny, trials=7, parallel=2, cluster=cast("Any", workers), progress=False)
    assert workers.sizes == [2, 2, 2, 1]
    here = tune(plan, tiny, trials=4, parallel=4, progress=False)
    for one, other in zip(found.trials[:4], here.trials, strict=True):
        assert one.values == other.values
        assert one.score == pytest.approx(other.score, abs=1e-5)
    assert len(found.trials) == 7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_trials_train_on_ray(tiny_folder: Path) -> None:
    ray = pytest.importorskip("ray")
    path = write_recipe(tiny_folder, search="{method.r: [1, 2, 4]}")
    options = ("--trials", "6", "--parallel", "2", "--engine", "ray", "--workers", "2", "--json")
    result = run_command("tune", path, *options)
    ray.shutdown()
    assert result.code == 0, result.err
    trials = json.loads(result.out)["trials"]
    assert [trial["number"] for trial in trials] == list(range(6))
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}


def test_a_trial_that_fails_is_kept_with_its_reason(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(recipes: Any, *args: Any, **options: Any) -> Any:
        finished = real(recipes, *args, **options)
        if recipes[0].name == "trial/0":
            raise StoppedError({"trial/0": "the loss became nan"}, finished[1:])
        return finished

    real = train_many
    monkeypatch.setattr(trial_group, "train_many", trained)
    search = {"training.accumulation": [1, 8], "training.batch_size": [4, 8]}
    result = tune(recipe(search, epochs=1), tiny, trials=9, parallel=9, progress=False)
    reasons = {trial.reason for trial in result.trials if trial.state == "failed"}
    together = "training.accumulation: a batch of 4 rows cannot be computed in 8 pieces; give"
    assert reasons == {"the loss became nan", f"{together} at most training.batch_size"}
    assert "1 failed" not in tuning_table(result.trials, "accuracy")
    assert "failed)" in tuning_table(result.trials, "accuracy")


def test_ctrl_c_keeps_the_trials_that_have_ended(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = train_many, []

    def trained(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(trial_group, "train_many", trained)
    plan = recipe()
    with pytest.raises(TrainingInterruptedError, match=r"after 2 of 4 trials, which are in s\.db"):
        tune(plan, tiny, trials=4, parallel=2, study="s.db", progress=False)
    result = tune(plan, tiny, trials=4, parallel=2, study="s.db", progress=False)
    assert len(result.trials) == 4
    assert {trial.state for trial in result.trials} <= {"complete", "pruned"}


def test_what_cannot_be_searched_is_refused_before_training(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write_recipe(tiny_folder, data="{path: rows.csv, validation: 0.2}")
    assert_refused("tune", plain, words="search: the recipe has no such section; give keys")
    searched = write_recipe(tiny_folder, search="{method.r: [2, 4]}")
    assert_refused(
        "tune", searched, "--set", "data.validation=0", words="there are no validation rows"
    )
    assert_refused("tune", searched, "--set", "training.ensemble=2", words="compares single")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert_refused("tune", searched, words="tune needs Optuna, which is not installed; pip install")


def test_the_command_writes_recipe_plot_and_study(tiny_folder: Path) -> None:
    path = write_recipe(
        tiny_folder,
        data="{path: rows.csv, validation: 0.25}",
        search="{method.r: {low: 1, high: 4}, task.dropout: [0.0, 0.2]}",
    )
    result = run_command("tune", path, "--trials", "2", "--publish", "--json").json
    assert result["recipe"] == "r.best.yaml"
    best = Recipe.load("r.best.yaml")
    assert best.plain()["method"]["r"] == result["best"]["values"]["method.r"]
    assert not best.search
    assert Path("r.trials.png").read_bytes().startswith(b"\x89PNG")
    assert Path(result["folder"]) == Path("adapters/acme/topic/1")
    with sqlite3.connect("r.study.db") as database:
        assert database.execute("select count(*) from trials").fetchone() == (2,)
    table = run_command("tune", path, "--trials", "2")
    assert table.code == 0
    assert "goes on after 2 of 2 trials" in table.err
    assert "validation accuracy" in table.out
    assert "the best 2 of 2 trials" in table.out
    assert "test: loss" in table.out
    assert not Path("adapters/acme/topic/2").exists(), "nothing is published without --publish"


@pytest.mark.slow
def test_a_killed_search_trains_its_trials_again(tiny_folder: Path) -> None:
    path = write_recipe(
        tiny_folder,
        data="{path: rows.csv, validation: 0.25}",
        training="{epochs: 40, batch_size: 8}",
        search="{training.learning_rate: {low: 1e-4, high: 1e-2, log: true}}",
    )
    command = [sys.executable, "-m", "adapterkit", "tune", str(path), "--trials", "6"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not _has_rows("r.study.db", "trial_intermediate_values"):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = run_command("tune", path, "--trials", "6", "--json").json
    assert [trial["state"] for trial in result["trials"]].count("failed") == 0
    assert len(result["trials"]) == 6


def _has_rows(file: str, table: str) -> bool:
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            return bool(database.execute(f"select 1 from {table} limit 1").fetchone())
    except sqlite3.OperationalError:
        return False
