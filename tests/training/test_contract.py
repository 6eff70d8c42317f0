"""The contract of every registered callback, those of plug-ins included; no test names one."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
import torch

from adapterkit import AdapterkitError, Callback, Event, train, train_many
from adapterkit.backbone.model import Backbone
from adapterkit.training.callbacks.base import callbacks
from helpers.joint_training import assert_equals_solo, recipe_for, trained_once, write_rows

EVENTS = {name for name in dir(Callback) if name.startswith("on_")}
every_callback = pytest.mark.parametrize("kind", callbacks().values(), ids=list(callbacks()))


class Watch:
    """What a callback does while it is called.

    Attributes:
        called: Names of its events, in order.
        written: All that it has written to the terminal and to the log.
        states: What it wanted saved with a run, after every event.
    """

    def __init__(self) -> None:
        self.called: list[str] = []
        self.written = io.StringIO()
        self.states: list[Any] = []

    def call(self, callback: Callback, method: Any, name: str, event: Event) -> None:
        """Calls one event of the callback."""
        self.called.append(name)
        handler, log = logging.StreamHandler(self.written), logging.getLogger()
        log.addHandler(handler)
        try:
            with redirect_stdout(self.written), redirect_stderr(self.written):
                method(callback, event)
        finally:
            log.removeHandler(handler)
        for run in event.runs:
            if callback.type in run.callback_state:
                self.states.append(run.callback_state[callback.type])


@pytest.fixture
def watch(kind: type[Callback], monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watches the registered callback in every training of a test."""
    watch = Watch()

    def watched(name: str, method: Any) -> Any:
        return lambda self, event: watch.call(self, method, name, event)

    for name in EVENTS:
        monkeypatch.setattr(kind, name, watched(name, getattr(kind, name)))
    return watch


@every_callback
def test_a_callback_hears_events_that_exist(kind: type[Callback]) -> None:
    heard = {name for name in dir(kind) if name.startswith("on_")}
    assert heard == EVENTS, "a method of another name is never called"
    assert any(getattr(kind, name) is not getattr(Callback, name) for name in EVENTS)
    assert isinstance(kind.order, int)


@every_callback
def test_every_training_has_a_callback_of_its_own(kind: type[Callback]) -> None:
    one, other = vars(kind()), vars(kind())
    containers = (list, dict, set, torch.Tensor)
    assert [k for k, v in one.items() if isinstance(v, containers) and other[k] is v] == []


@every_callback
def test_runs_side_by_side_are_as_alone_and_nothing_is_written(
    kind: type[Callback], watch: Watch, tiny: Backbone
) -> None:
    recipes = [
        recipe_for("a", write_rows(1, 20), epochs=2, seed=1),
        recipe_for("b", write_rows(2, 30), epochs=1, seed=2),
    ]
    alone = [trained_once(recipe, tiny) for recipe in recipes]
    watch.called.clear()
    for adapter, other in zip(train_many(recipes, tiny, progress=False), alone, strict=True):
        assert_equals_solo(adapter, other)
    assert watch.called[0] == "on_start"
    assert watch.called[-1] == "on_end"
    assert watch.called.count("on_epoch") >= 2
    assert watch.written.getvalue() == "", "write only if event.show_progress is true"
    for state in watch.states:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)  # refuses all but plain data and tensors


@every_callback
def test_the_error_that_ends_a_training_is_reported(
    kind: type[Callback], watch: Watch, tiny: Backbone
) -> None:
    class Failing(Callback):
        def on_start(self, event: Event) -> None:
            raise AdapterkitError("no space left")

    with pytest.raises(AdapterkitError, match="no space left"):
        train(recipe_for("t", write_rows(1, 20)), tiny, callbacks=[Failing()], progress=False)
    assert watch.called[-1] == "on_end"
