"""The log of a run, and the trackers that it is sent to."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from adapterkit import AdapterkitError, Callback, Event, Store, train, train_many
from adapterkit.adapter.publication import publish_or_keep
from adapterkit.backbone.model import Backbone
from adapterkit.training import trackers
from adapterkit.training.recipe import Recipe
from helpers.command_line import assert_refused, run_command, write_recipe
from helpers.joint_training import recipe_for, write_rows


class Interrupt(Callback):
    """Ends the training after a step, as a crash does."""

    type: ClassVar[str] = "interrupt"
    order: ClassVar[int] = 95

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, event: Event) -> None:
        if len(event.runs[0].losses) == self.step:
            raise OSError("a crash")


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def tracked(name: str, *kinds: str, **training: Any) -> Recipe:
    """A recipe of 9 steps, 3 an epoch."""
    options = {"epochs": 3, "batch_size": 8, "log_steps": 2, **training}
    return recipe_for(name, write_rows(1, 30), trackers=list(kinds), **options)


def scalars(folder: Path) -> dict[str, Any]:
    """The points of every curve, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def test_a_log_has_a_line_for_steps_and_for_epochs(tiny: Backbone) -> None:
    store = Store("shop")
    seen = []

    class Reader(Callback):
        def on_epoch(self, event: Event) -> None:
            seen.append(len(lines_of(store.log_file("a/t"))))

    adapter = train(tracked("a/t"), tiny, store=store, callbacks=[Reader()], progress=False)
    lines = lines_of(store.log_file("a/t"))
    assert seen == [2, 4, 6], "the file is complete after every epoch"
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9]
    assert [line["epoch"] for line in lines] == [1, 1, 2, 2, 3, 3]
    assert {line["run"] for line in lines} == {"a/t"}
    for entry, line in zip(adapter.training["history"], lines[1::2], strict=True):
        assert line["validation"] == entry["validation"]
        assert line["learning_rate"] == entry["learning_rate"]
    assert "validation" not in lines[0]
    folder = publish_or_keep(adapter, store, tiny.geometry)
    assert lines_of(folder / "report" / "log.jsonl") == lines
    assert "log" not in json.loads((folder / "adapterkit.json").read_text())["training"]
    assert not (store.root / ".logs").exists()
    assert store.names() == ["a/t"]


def test_a_training_that_goes_on_repeats_no_line_and_no_point(tiny: Backbone) -> None:
    recipe, store = tracked("t", "tensorboard", checkpoint={"steps": 3}), Store("shop")
    with pytest.raises(OSError, match="a crash"):
        train(recipe, tiny, store=store, callbacks=[Interrupt(5)], progress=False)
    file = store.log_file("t")
    with file.open("a") as out:
        out.write('{"time": "20')  # what a killed process had not completed
    assert len(file.read_text().splitlines()) == 4
    adapter = train(recipe, tiny, store=store, resume=True, progress=False)
    lines = lines_of(file)
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9]
    assert adapter.training["log"] == lines
    (run,) = (folder for folder in Path("runs/t").iterdir())
    points = scalars(run)
    assert points["train/loss"] == [(e["step"], pytest.approx(e["loss"])) for e in lines]
    assert set(points) >= {"train/learning_rate", "train/epoch", "validation/accuracy"}
    assert [step for step, _ in points["validation/accuracy"]] == [3, 6, 9]


def test_runs_side_by_side_have_curves_of_their_own(tiny: Backbone) -> None:
    recipes = [tracked("a/x", "tensorboard", ensemble=2), tracked("b", "tensorboard", epochs=1)]
    adapters = train_many([*recipes, tracked("c")], tiny, store=Store("shop"), progress=False)
    labels = ["a/x (seed 0)", "a/x (seed 1)", "b"]
    for label in labels:
        (folder,) = Path("runs", label).iterdir()
        entries = [e for a in adapters for e in a.training["log"] if e["run"] == label]
        assert scalars(folder)["train/loss"] == [
            (entry["step"], pytest.approx(entry["loss"])) for entry in entries
        ]
    assert {line["run"] for line in lines_of(Store("shop").log_file("a/x"))} == set(labels[:2])
    assert not Path("runs", "c").exists()


def test_a_tracker_that_is_unknown_or_missing_is_refused_before_training(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tiny_folder)
    words = "training.trackers: 'tensorbord' is not known; did you mean 'tensorboard'?"
    assert_refused("train", recipe, "--set", "training.trackers=[tensorbord]", words=words)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    words = "training.trackers: wandb is not installed; pip install wandb"
    assert_refused("train", recipe, "--set", "training.trackers=[wandb]", words=words)


def test_a_tracker_that_fails_is_reported_in_one_line(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no\nroute")

    with monkeypatch.context() as patch:
        patch.setattr("accelerate.tracking.TensorBoardTracker.start", fail)
        with pytest.raises(
            AdapterkitError, match=r"tensorboard failed \(ConnectionError: no route\)$"
        ):
            train(tracked("t", "tensorboard"), tiny, progress=False)
    monkeypatch.setattr(trackers.Tracker, "log", fail)
    adapter = train(tracked("t", "tensorboard"), tiny, progress=False)
    assert len(adapter.training["log"]) == 6
    assert len([m for m in caplog.messages if m.endswith("; the training goes on")]) == 1


def test_a_log_that_cannot_be_written_ends_no_training(
    tiny: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store("shop")
    Path("shop").mkdir()
    (Path("shop") / ".logs").write_text("not a folder")
    adapter = train(tracked("t"), tiny, store=store, progress=False)
    assert len(adapter.training["log"]) == 6
    assert len([m for m in caplog.messages if "the log cannot be written" in m]) == 1


def test_the_command_line_leaves_the_log_in_the_adapter(tiny_folder: Path) -> None:
    result = run_command("train", write_recipe(tiny_folder), "--set", "training.epochs=1", "--json")
    assert len(lines_of(Path(result.json["folder"], "report", "log.jsonl"))) == 1


def interrupted_and_resumed(tiny: Backbone, kind: str) -> dict[str, list[dict[str, Any]]]:
    """Trains two runs side by side, and both again from a checkpoint."""
    names, store = ("a/x", "b"), Store("shop")
    recipes = [tracked(name, kind, checkpoint={"steps": 3}) for name in names]
    with pytest.raises(OSError, match="a crash"):
        train_many(recipes, tiny, store=store, callbacks=[Interrupt(5)], progress=False)
    adapters = train_many(recipes, tiny, store=store, resume=True, progress=False)
    return {a.name: a.training["log"] for a in adapters}


@pytest.mark.filterwarnings("default")
def test_mlflow_keeps_every_point_once(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(Path("mlruns").resolve().as_uri())
    logs = interrupted_and_resumed(tiny, "mlflow")
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'adapterkit'")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    for run in runs:
        log = logs[run.info.run_name.rpartition("/")[0]]
        assert run.data.params["training.batch_size"] == "8"
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted((p.step, p.value) for p in points) == [(e["step"], e["loss"]) for e in log]
        assert len(client.get_metric_history(run.info.run_id, "validation/accuracy")) == 3


def wandb_records(file: Path) -> Iterator[bytes]:
    """The records of an offline run: LevelDB's log format after a header of 7 bytes."""
    content, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        (length,) = struct.unpack_from("<H", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        if content[place + 6] in (1, 4):  # a whole record, or its last part
            yield record
            record = b""
        place += 7 + length


@pytest.mark.filterwarnings("default")
def test_wandb_keeps_every_point_once(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logs = interrupted_and_resumed(tiny, "wandb")
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in logs}
    for file in sorted(Path("wandb").glob("offline-run-*/*.wandb"), key=os.path.getmtime):
        name = ""
        for content in wandb_records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            name = record.run.display_name.rpartition("/")[0] or name
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            if items:
                points[name].append((items["_step"], items["train/loss"]))
    assert points == {name: [(e["step"], e["loss"]) for e in log] for name, log in logs.items()}


@pytest.mark.filterwarnings("default")
def test_trackio_keeps_every_point_once(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(Path("trackio").resolve()))
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    logs = interrupted_and_resumed(tiny, "trackio")
    runs = list(trackio.Api().runs("adapterkit"))
    assert len(runs) == 2
    for run in runs:
        found = SQLiteStorage.get_logs("adapterkit", run.name)
        expected = [(e["step"], e["loss"]) for e in logs[run.name.rpartition("/")[0]]]
        assert [(point["step"], point["train/loss"]) for point in found] == expected
