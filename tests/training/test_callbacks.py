"""Callbacks: what they are called with, in which order, and what they can do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from adapterkit import AdapterkitError, Callback, train, train_many
from adapterkit.backbone.model import Backbone
from adapterkit.training.callbacks.base import Event, callbacks, in_order
from adapterkit.training.run import Run
from helpers.joint_training import (
    assert_same_weights,
    recipe_for,
    train_alone,
    with_changes,
    write_rows,
)
from helpers.paths import ROOT


class Recorder(Callback):
    """Notes every event with the labels and the numbers of steps of its runs."""

    type: ClassVar[str] = "recorder"

    def __init__(self) -> None:
        self.events: list[tuple[str, list[tuple[str, int]]]] = []
        self.shown: set[bool] = set()

    def _record(self, name: str, event: Event) -> None:
        self.events.append((name, [(run.label, len(run.losses)) for run in event.runs]))
        self.shown.add(event.show_progress)

    def on_start(self, event: Event) -> None:
        self._record("start", event)

    def on_step(self, event: Event) -> None:
        self._record("step", event)

    def on_epoch(self, event: Event) -> None:
        assert all("validation" in run.history[-1] for run in event.runs)  # built-in ones are first
        self._record("epoch", event)

    def on_end(self, event: Event) -> None:
        self._record("end", event)


def test_a_run_is_followed_from_start_to_end(tiny: Backbone) -> None:
    recorder = Recorder()
    recipe = recipe_for("t", write_rows(1, 30), epochs=2, batch_size=12)
    adapter = train(recipe, tiny, callbacks=[recorder], progress=False)
    per_epoch = adapter.training["history"][0]["step"]
    expected: list[tuple[str, int]] = [("start", 0)]
    for step in range(1, 2 * per_epoch + 1):
        expected.append(("step", step))
        if step % per_epoch == 0:
            expected.append(("epoch", step))
    expected.append(("end", 2 * per_epoch))
    assert per_epoch > 1
    assert recorder.events == [(name, [("t", step)]) for name, step in expected]
    assert recorder.shown == {False}
    assert_same_weights(adapter, train_alone(recipe, tiny))


@pytest.mark.parametrize("max_tokens", [4096, 1])
def test_one_callback_follows_runs_side_by_side(tiny: Backbone, max_tokens: int) -> None:
    recorder = Recorder()
    recipes = [
        recipe_for("a", write_rows(1, 30), epochs=2, ensemble=2),
        recipe_for("b", write_rows(2, 50), epochs=1),
    ]
    adapters = train_many(
        recipes, tiny, callbacks=[recorder], progress=False, max_tokens=max_tokens
    )
    for label, record in (
        ("a (seed 0)", adapters[0].training),
        ("a (seed 1)", adapters[0].training["members"][0]),
        ("b", adapters[1].training),
    ):
        for name, steps in (
            ("step", list(range(1, record["history"][-1]["step"] + 1))),
            ("epoch", [entry["step"] for entry in record["history"]]),
        ):
            heard = [
                step
                for event, runs in recorder.events
                for who, step in runs
                if (event, who) == (name, label)
            ]
            assert heard == steps
    widest = max(len(runs) for name, runs in recorder.events if name == "step")
    assert widest == (1 if max_tokens == 1 else 3)


def test_a_callback_ends_a_run_and_no_other(tiny: Backbone) -> None:
    class StopFirst(Callback):
        def on_epoch(self, event: Event) -> None:
            for run in event.runs:
                if run.label == "a":
                    run.stop()

    recipes = [recipe_for(name, write_rows(1, 30), epochs=3) for name in "ab"]
    first, second = train_many(recipes, tiny, callbacks=[StopFirst()], progress=False)
    assert [len(adapter.training["history"]) for adapter in (first, second)] == [1, 3]
    assert first.training["epoch"] == 1


class Scores(Callback):
    """Replaces the accuracy of each epoch; None leaves it undefined."""

    order: ClassVar[int] = 25  # after the evaluation

    def __init__(self, values: Sequence[float | None]) -> None:
        self.values = values

    def on_epoch(self, event: Event) -> None:
        for run in event.runs:
            scores, value = run.history[-1]["validation"], self.values[run.epoch - 1]
            del scores["accuracy"]
            if value is not None:
                scores["accuracy"] = value


@pytest.mark.parametrize(
    ("values", "best"), [([0.5, 0.7, 0.6, 0.6], 2), ([None, 0.2, None, 0.1], 2), ([0.5, 0, 0], 1)]
)
def test_patience_counts_from_the_best_epoch_whether_or_not_it_is_kept(
    tiny: Backbone, values: list[float | None], best: int
) -> None:
    recipe = recipe_for("t", write_rows(1, 30), epochs=9, patience=2)
    for keep_best, kept in ((True, best), (False, len(values))):
        own = with_changes(recipe, training={"keep_best": keep_best})
        adapter = train(own, tiny, callbacks=[Scores(values)], progress=False)
        assert len(adapter.training["history"]) == len(values)
        assert adapter.training["epoch"] == kept


def test_patience_needs_validation_rows(tiny: Backbone) -> None:
    recipe = recipe_for("t", write_rows(1, 30), patience=2)
    recipe = replace(recipe, data=replace(recipe.data, validation=0.0))
    words = r"^t: training\.patience: validation rows say whether an epoch is better, and there are"
    with pytest.raises(AdapterkitError, match=words):
        train(recipe, tiny, progress=False)


def test_the_end_is_heard_after_an_error_too(tiny: Backbone) -> None:
    class Failing(Recorder):
        def on_step(self, event: Event) -> None:
            raise RuntimeError("no space left")

    failing = Failing()
    with pytest.raises(RuntimeError, match="no space left"):
        train(recipe_for("t", write_rows(1, 30)), tiny, callbacks=[failing], progress=False)
    assert [name for name, _ in failing.events] == ["start", "end"]


def test_callbacks_are_called_by_their_order() -> None:
    class Early(Callback):
        order: ClassVar[int] = 5

    early, usual = Early(), Recorder()
    types = [getattr(callback, "type", "early") for callback in in_order([usual, early])]
    assert types == [
        *("early", "history", "evaluation", "keep_best", "patience", "log", "tracking"),
        *("recorder", "progress"),
    ]
    assert set(callbacks()) == set(types) - {"early", "recorder"}


def test_every_training_has_callbacks_of_its_own() -> None:
    first, second = in_order(), in_order()
    assert not {id(callback) for callback in first} & {id(callback) for callback in second}


def test_progress_is_written_only_if_wanted(
    tiny: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_for("t", write_rows(1, 30), epochs=2)
    train(recipe, tiny, progress=False)
    assert "epoch" not in capsys.readouterr().err
    train(recipe, tiny, progress=True)
    written = capsys.readouterr().err
    assert re.search(r"^epoch 1: training loss \d\.\d{4}; validation loss \d", written, re.M)
    assert re.search(r"^epoch 2: training loss", written, re.M)


def test_the_loop_knows_no_single_callback() -> None:
    folder = ROOT / "adapterkit"
    for path in folder.rglob("*.py"):
        if path.parent.name == "callbacks":
            continue
        source = path.read_text(encoding="utf-8")
        assert not re.findall(r"callbacks\.(?!base\b)[a-z_]+ import", source), path


def test_state_of_a_callback_is_saved_with_the_run(tiny: Backbone) -> None:
    class Counter(Callback):
        type: ClassVar[str] = "counter"

        def on_step(self, event: Event) -> None:
            for run in event.runs:
                run.callback_state[self.type] = run.callback_state.get(self.type, 0) + 1

    class Saver(Callback):
        state: dict[str, Any]

        def on_end(self, event: Event) -> None:
            run: Run = event.runs[0]
            self.state = run.state_dict()

    saver = Saver()
    recipe = recipe_for("t", write_rows(1, 30), epochs=1)
    adapter = train(recipe, tiny, callbacks=[Counter(), saver], progress=False)
    assert saver.state["callbacks"] == {"counter": adapter.training["history"][-1]["step"]}


@pytest.mark.parametrize(
    ("scores", "warned"),
    [([0.2, 0.5, 0.6], True), ([0.2, 0.6, 0.6], False), ([0.6, 0.7, 0.5], False), ([0.6], False)],
)
def test_a_run_that_ends_while_its_metric_rises_is_reported(
    tiny: Backbone, scores: list[float], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Scores(Callback):
        type: ClassVar[str] = "scores"
        order: ClassVar[int] = 21

        def on_epoch(self, event: Event) -> None:
            for run in event.runs:
                run.history[-1]["validation"]["accuracy"] = scores[run.epoch - 1]

    recipe = recipe_for("t", write_rows(1, 30), epochs=len(scores))
    train(recipe, tiny, callbacks=[Scores()], progress=False)
    found = [message for message in caplog.messages if "still rose" in message]
    expected = "t: validation accuracy still rose in the last epoch (0.5000 to 0.6000); more epochs"
    assert found == ([f"{expected} may help (training.epochs)"] if warned else [])


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("epochs", [1, 9])
def test_weights_that_are_not_finite_are_a_fault(
    tiny: Backbone, validated: bool, epochs: int
) -> None:
    """Also after the last step, whose loss was finite, and in a run that a callback stops."""

    class Overflow(Callback):
        def on_step(self, event: Event) -> None:
            (run,) = event.runs
            if len(run.losses) == run.batches.steps_per_epoch:
                next(iter(run.trainable.head.values())).data[0] = float("inf")
                if epochs > 1:
                    run.stop()

    rows = Path(write_rows(1, 30))
    if not validated:
        rows.write_text(rows.read_text(encoding="utf-8").replace(",validation", ",train"))
    recipe = recipe_for("t", str(rows), epochs=epochs)
    with pytest.raises(AdapterkitError, match=r"^t: a parameter became infinite or NaN by step \d"):
        train(recipe, tiny, callbacks=[Overflow()], progress=False)
