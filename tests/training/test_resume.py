"""A run goes on from its saved state as if it had never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterkit import AdapterkitError, Backbone, Callback, Recipe, train, train_many
from adapterkit.training.callbacks.base import Event
from adapterkit.training.plan import Plan
from adapterkit.training.run import Run
from adapterkit.training.trainable import TrainableAdapter
from helpers.joint_training import recipe_for, with_changes, write_rows
from helpers.resumable import assert_same, recipes


class InterruptionError(Exception):
    """The training is interrupted."""


class Interrupter(Callback):
    """Saves the state of every run after some steps, and interrupts the training."""

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs
        self.states: dict[str, Any] = {}

    def on_step(self, event: Event) -> None:
        first = event.all_runs[0]
        if len(first.losses) == int(self.epochs * first.batches.steps_per_epoch):
            self.states = {run.label: run.state_dict() for run in event.all_runs}
            raise InterruptionError


class Resumer(Callback):
    """Loads the state of every run before the first step."""

    order: ClassVar[int] = 0

    def __init__(self, states: dict[str, Any]) -> None:
        self.states = states

    def on_start(self, event: Event) -> None:
        for run in event.runs:
            run.load_state_dict(self.states[run.label])


def through_files(states: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The states after a way through JSON and safetensors."""
    tensors: dict[str, Tensor] = {}

    def without_tensors(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            tensors[name] = value.contiguous()
            return {"tensor": name}
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            return {key: without_tensors(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [without_tensors(inner) for inner in value]
        return value

    (folder / "states.json").write_text(json.dumps(without_tensors(states)))
    save_file(tensors, folder / "states.safetensors")
    loaded = load_file(folder / "states.safetensors")

    def with_tensors(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(with_tensors, value))
        if isinstance(value, dict):
            if set(value) == {"tensor"}:
                return loaded[value["tensor"]]
            return {key: with_tensors(inner) for key, inner in value.items()}
        return value

    found: dict[str, Any] = with_tensors(json.loads((folder / "states.json").read_text()))
    return found


@pytest.mark.parametrize(
    ("kind", "epochs"),
    [
        ("one", 1.5),
        ("one", 2),
        ("augmented", 1.5),
        ("adversarial", 1.5),
        ("ensemble", 2),
        ("patience", 2),
        ("principal", 1.5),
        ("side by side", 1.5),
    ],
)
def test_a_training_that_was_interrupted_ends_as_if_it_was_not(
    tiny: Backbone, tmp_path: Path, kind: str, epochs: float
) -> None:
    chosen = recipes(kind, tmp_path)
    whole = train_many(chosen, tiny, progress=False)
    interrupter = Interrupter(epochs)
    with pytest.raises(InterruptionError):
        train_many(chosen, tiny, callbacks=[interrupter], progress=False)
    states = through_files(interrupter.states, tmp_path)
    resumed = train_many(chosen, tiny, callbacks=[Resumer(states)], progress=False)
    for found, expected in zip(resumed, whole, strict=True):
        assert_same(found, expected)
    if kind == "one":
        # Without the moments of the optimiser the second half would be another one.
        for state in states.values():
            state["optimizer"]["state"] = {}
        (other,) = train_many(chosen, tiny, callbacks=[Resumer(states)], progress=False)
        assert not all(torch.equal(x, whole[0].head[name]) for name, x in other.head.items())


def test_a_state_is_a_copy(tiny: Backbone) -> None:
    interrupter = Interrupter(1.5)
    recipe = recipe_for("t", write_rows(1, 30), epochs=3)
    with pytest.raises(InterruptionError):
        train(recipe, tiny, callbacks=[interrupter], progress=False)
    first = train(recipe, tiny, callbacks=[Resumer(interrupter.states)], progress=False)
    second = train(recipe, tiny, callbacks=[Resumer(interrupter.states)], progress=False)
    assert_same(first, second)


def test_a_state_of_another_training_is_refused(tiny: Backbone) -> None:
    interrupter = Interrupter(1)
    recipe = recipe_for("t", write_rows(1, 30), epochs=3)
    with pytest.raises(InterruptionError):
        train(recipe, tiny, callbacks=[interrupter], progress=False)
    for other, message in (
        (with_changes(recipe, training={"seed": 7}), "saved run has seed 0 and this one has 7"),
        (with_changes(recipe, training={"batch_size": 2}), "steps_per_epoch"),
        (with_changes(recipe, method={"r": 3}), r"does not fit: its tensors tensors\.\w+"),
    ):
        with pytest.raises(AdapterkitError, match=rf"^t: .*{message}"):
            train(other, tiny, callbacks=[Resumer(interrupter.states)], progress=False)


@pytest.mark.parametrize("kind", ["one", "augmented"])
def test_a_batch_depends_on_seed_epoch_and_step_alone(
    tiny: Backbone, tmp_path: Path, kind: str
) -> None:
    (recipe,) = recipes(kind, tmp_path)
    first, second = (run_of(recipe, tiny) for _ in range(2))
    per_epoch = first.batches.steps_per_epoch
    places = [(epoch, step) for epoch in (1, 2, 3) for step in range(per_epoch)]
    forwards = {place: first.batches.micro_batches(*place) for place in places}
    backwards = {place: second.batches.micro_batches(*place) for place in reversed(places)}
    assert forwards == backwards
    one_epoch = [
        example for step in range(per_epoch) for example in first.batches.at(1, step).examples
    ]
    assert len(one_epoch) == len({id(example) for example in one_epoch})
    assert forwards[1, 0] != forwards[2, 0]
    other = run_of(with_changes(recipe, training={"seed": 11}), tiny)
    assert other.batches.micro_batches(1, 0) != forwards[1, 0]


def run_of(recipe: Recipe, backbone: Backbone) -> Run:
    plan = Plan.of(recipe, backbone)
    (run,) = plan.runs(map(TrainableAdapter, plan.members))
    return run
