"""A training that was ended at any moment goes on from its files and ends as an undisturbed one."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch.testing import assert_close as assert_tensors_close

from adapterkit import AdapterkitError, Backbone, Callback, Recipe, Store, train, train_many
from adapterkit.adapter.folder import load_adapter
from adapterkit.errors import RecipeError, TrainingInterruptedError
from adapterkit.training import checkpointing
from adapterkit.training.callbacks.base import Event
from helpers.adapters import MakeAdapter
from helpers.command_line import run_command, write_recipe
from helpers.joint_training import recipe_for, with_changes, write_rows
from helpers.resumable import assert_same, recipes
from helpers.tolerance import assert_close

EVERY_STEP = {"checkpoint": {"steps": 1}}


class FailureError(Exception):
    """The training fails."""


class Failing(Callback):
    """Fails after some steps of the first run, once their checkpoint is written."""

    order: ClassVar[int] = 99

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step(self, event: Event) -> None:
        if len(event.all_runs[0].losses) >= self.steps:
            raise FailureError


class Signalling(Callback):
    """Sends a signal to this process after some steps."""

    def __init__(self, number: signal.Signals, steps: int) -> None:
        self.number, self.steps = number, steps

    def on_step(self, event: Event) -> None:
        if len(event.all_runs[0].losses) == self.steps:
            signal.raise_signal(self.number)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def checkpoints_in(store: Store) -> list[str]:
    """The checkpoints of all recipes, as paths from the store."""
    return sorted(
        str(path.parent.relative_to(store.root)) for path in store.root.rglob("state.json")
    )


def fail(recipe: Recipe, backbone: Backbone, store: Store, steps: int) -> None:
    with pytest.raises(FailureError):
        train(recipe, backbone, store=store, callbacks=[Failing(steps)], progress=False)


@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        ("one", [1, 4, 7]),
        ("augmented", [5]),
        ("adversarial", [4]),
        ("ensemble", [2, 5]),
        ("patience", [6]),
        ("side by side", [3, 8]),
    ],
)
def test_a_training_that_failed_goes_on_bit_for_bit(
    tiny: Backbone, store: Store, tmp_path: Path, kind: str, moments: list[int]
) -> None:
    chosen = [with_changes(recipe, training=EVERY_STEP) for recipe in recipes(kind, tmp_path)]
    whole = train_many(chosen, tiny, progress=False)
    for moment in moments:
        with pytest.raises(FailureError):
            train_many(
                chosen,
                tiny,
                store=store,
                callbacks=[Failing(moment)],
                resume=True,
                progress=False,
            )
    resumed = train_many(chosen, tiny, store=store, resume=True, progress=False)
    for found, expected in zip(resumed, whole, strict=True):
        assert_same(found, expected)


def test_two_checkpoints_are_kept_and_none_after_publishing(tiny: Backbone, store: Store) -> None:
    recipe = recipe_for("a/t", write_rows(1, 30), epochs=2, **EVERY_STEP)
    adapter = train(recipe, tiny, store=store, progress=False)
    steps = adapter.training["history"][-1]["step"]
    assert checkpoints_in(store) == [f".checkpoints/a/t/member=0/{n}" for n in (steps - 1, steps)]
    assert store.names() == []
    store.publish(adapter, tiny.geometry)
    assert store.names() == ["a/t"]
    assert not (store.root / ".checkpoints").exists()


def test_a_short_training_writes_no_checkpoint(tiny: Backbone, store: Store) -> None:
    train(recipe_for("t", write_rows(1, 30), epochs=1), tiny, store=store, progress=False)
    assert not store.checkpoint_dir("t").exists()


@pytest.fixture
def heard_signals() -> Iterator[None]:
    """A shell starts its background jobs, such as these tests may be, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.usefixtures("heard_signals")
def test_a_signal_ends_the_training_with_a_checkpoint(
    tiny: Backbone, store: Store, number: signal.Signals, code: int, last: bool
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    recipe = recipe_for("t", write_rows(1, 30), epochs=2)
    whole = train(recipe, tiny, progress=False)
    steps = whole.training["history"][-1]["step"] if last else 3
    with pytest.raises(TrainingInterruptedError, match=r"with --resume goes on") as caught:
        train(recipe, tiny, store=store, callbacks=[Signalling(number, steps)], progress=False)
    assert caught.value.exit_code == code
    assert str(caught.value).startswith(f"Interrupted by {number.name} after {steps} of ")
    assert checkpoints_in(store) == [".checkpoints/t/member=0/1"]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert_same(train(recipe, tiny, store=store, resume=True, progress=False), whole)


@pytest.mark.usefixtures("heard_signals")
def test_a_signal_that_a_launcher_repeats_is_one_signal(
    tiny: Backbone, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for("t", write_rows(1, 30), epochs=2)
    twice = [Signalling(signal.SIGINT, 2), Signalling(signal.SIGINT, 2)]
    with pytest.raises(TrainingInterruptedError, match="SIGINT after 2 of "):
        train(recipe, tiny, store=store, callbacks=twice, progress=False)
    assert checkpoints_in(store) == [".checkpoints/t/member=0/1"]
    monkeypatch.setattr(checkpointing, "REPEATED", -1.0)
    with pytest.raises(TrainingInterruptedError, match=r"SIGINT after 2 of \d+ steps$"):
        train(recipe, tiny, store=store, callbacks=twice, progress=False)


def test_another_recipe_other_rows_and_another_backbone_are_refused(
    tiny: Backbone, store: Store, other_folder: Path
) -> None:
    rows = write_rows(1, 30)
    recipe = recipe_for("t", rows, epochs=2, **EVERY_STEP)
    fail(recipe, tiny, store, 2)
    before = checkpoints_in(store)
    other = Backbone.load(str(other_folder), device="cpu")
    for changed, backbone, words in (
        (with_changes(recipe, training={"epochs": 3}), tiny, "training.epochs was 2 and is now 3"),
        (with_changes(recipe, method={"r": 2}), tiny, "method.r was 8 and is now 2"),
        (recipe, other, "of another training: other backbone"),
    ):
        with pytest.raises(AdapterkitError, match=rf"^t: the checkpoint .*{words}"):
            train(changed, backbone, store=store, resume=True, progress=False)
    Path(rows).write_text(Path(rows).read_text(encoding="utf-8").replace("bank", "card", 1))
    with pytest.raises(AdapterkitError, match="of another training: other rows"):
        train(recipe, tiny, store=store, resume=True, progress=False)
    assert checkpoints_in(store) == before


def test_another_version_to_start_from_is_refused(
    tiny: Backbone, store: Store, make_adapter: MakeAdapter
) -> None:
    recipe = recipe_for("t", write_rows(1, 30), start_from="a/base", **EVERY_STEP)
    store.publish(make_adapter(tiny, name="a/base", seed=1), tiny.geometry)
    fail(recipe, tiny, store, 2)
    store.publish(make_adapter(tiny, name="a/base", seed=2), tiny.geometry)
    with pytest.raises(AdapterkitError, match="of another training: other adapter to start from"):
        train(recipe, tiny, store=store, resume=True, progress=False)


@pytest.fixture
def other_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with one weight changed."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_settings_without_effect_may_change(tiny: Backbone, store: Store) -> None:
    recipe = recipe_for("t", write_rows(1, 30), epochs=2, **EVERY_STEP)
    fail(recipe, tiny, store, 2)
    changed = with_changes(
        recipe, training={"checkpoint": {"minutes": 1}, "timeout": 9, "cache_mb": 0}
    )
    resumed = train(changed, tiny, store=store, resume=True, progress=False)
    whole = train(changed, tiny, progress=False)
    assert_same(resumed, whole)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_leaves_the_last_checkpoint(
    tiny: Backbone, store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    recipe = recipe_for("t", write_rows(1, 30), epochs=2, **EVERY_STEP)
    fail(recipe, tiny, store, 2)
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}

    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", refuse)
        with pytest.raises(
            AdapterkitError, match=rf"{os.strerror(code)}.*t/member=0/2 is intact, --resume"
        ):
            train(recipe, tiny, store=store, resume=True, progress=False)
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == before
    resumed = train(recipe, tiny, store=store, resume=True, progress=False)
    assert_same(resumed, train(recipe, tiny, progress=False))


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tiny: Backbone, store: Store, file: str
) -> None:
    recipe = recipe_for("t", write_rows(1, 30), epochs=2, **EVERY_STEP)
    fail(recipe, tiny, store, 4)
    newer = max(store.checkpoint_dir("t").glob("[0-9]*"))
    damaged = newer / file
    damaged.write_bytes(damaged.read_bytes()[:-9])
    resumed = train(recipe, tiny, store=store, resume=True, progress=False)
    assert_same(resumed, train(recipe, tiny, progress=False))
    fail(recipe, tiny, store, 2)
    for path in store.checkpoint_dir("t").rglob(file):
        path.write_bytes(b"{}")
    with pytest.raises(AdapterkitError, match=r"damaged .*; .*damaged"):
        train(recipe, tiny, store=store, resume=True, progress=False)


@pytest.mark.usefixtures("heard_signals")
def test_a_signal_ends_a_training_without_a_store(tiny: Backbone) -> None:
    recipe = recipe_for("t", write_rows(1, 30), epochs=2)
    with pytest.raises(TrainingInterruptedError, match=r"^Interrupted by SIGINT after [0-9]+ of "):
        train(recipe, tiny, callbacks=[Signalling(signal.SIGINT, 3)], progress=False)


def test_two_processes_do_not_share_checkpoints(
    tiny: Backbone, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The second one trains to its end without."""
    recipe = recipe_for("t", write_rows(1, 30), epochs=2, **EVERY_STEP)
    fail(recipe, tiny, store, 1)
    before = checkpoints_in(store)
    with FileLock(store.checkpoint_dir("t") / "lock"):
        adapter = train(recipe, tiny, store=store, progress=False)
        stop = Signalling(signal.SIGTERM, 2)
        with pytest.raises(TrainingInterruptedError, match=r"steps, without a checkpoint$"):
            train(recipe, tiny, store=store, callbacks=[stop], progress=False)
    assert_same(adapter, train(recipe, tiny, progress=False))
    warnings = [message for message in caplog.messages if "another process writes" in message]
    assert len(warnings) == 2  # one a training
    assert checkpoints_in(store) == before


def test_a_training_that_begins_anew_says_what_it_leaves(
    tiny: Backbone, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "adapterkit")
    recipe = recipe_for("t", write_rows(1, 30), epochs=1, **EVERY_STEP)
    fail(recipe, tiny, store, 1)
    assert "--resume would" not in caplog.text
    fail(recipe, tiny, store, 1)
    assert "t: --resume would go on from an earlier training, " in caplog.text
    caplog.clear()
    train(recipe, tiny, store=store, resume=True, progress=False)
    assert "--resume would" not in caplog.text


def test_a_training_without_checkpoint_begins(
    tiny: Backbone, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "adapterkit")
    recipe = recipe_for("t", write_rows(1, 30), epochs=1)
    with pytest.raises(RecipeError, match=r"^resume: checkpoints are in a store; give one"):
        train(recipe, tiny, resume=True, progress=False)
    resumed = train(recipe, tiny, store=store, resume=True, progress=False)
    assert "t: there is no checkpoint, so the training begins" in caplog.messages
    assert_same(resumed, train(recipe, tiny, progress=False))


def started(programs: Path, recipe: Path, *options: str) -> subprocess.Popen[str]:
    """`adapterkit train` in a process of its own."""
    return subprocess.Popen(
        [programs / "adapterkit", "train", recipe, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    """Waits until a checkpoint of that step or a later one is there."""
    folder = Store("adapters").checkpoint_dir("acme/topic")
    while not any(int(path.name) >= step for path in folder.glob("[0-9]*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def long_recipe(backbone: Path) -> Path:
    return write_recipe(
        backbone, training="{epochs: 60, batch_size: 4, checkpoint: {steps: 1, minutes: 0}}"
    )


def assert_as_undisturbed(recipe: Path, backbone: Backbone) -> None:
    """Up to rounding: each process measures whether prepacked linears are faster, and these round
    differently. Within one process the tests above compare bit for bit."""
    found = load_adapter(Path("adapters/acme/topic/1"), backbone)
    expected = train(Recipe.load(recipe), backbone, progress=False)
    card = json.loads(Path("adapters/acme/topic/1/adapterkit.json").read_text(encoding="utf-8"))
    assert_close(card["training"]["history"], expected.training["history"])
    for mine, theirs in ((found.tensors, expected.tensors), (found.head, expected.head)):
        for name, tensor in mine.items():
            assert_tensors_close(tensor, theirs[name], rtol=1e-3, atol=1e-5)
    assert not Path("adapters/.checkpoints").exists()


def test_a_process_that_was_killed_and_ended_goes_on(
    programs: Path, tiny: Backbone, tiny_folder: Path
) -> None:
    recipe = long_recipe(tiny_folder)
    killed = started(programs, recipe)
    wait_for_step(killed, 20)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    ended = started(programs, recipe, "--resume")
    wait_for_step(ended, 60)
    ended.terminate()
    _, errors = ended.communicate()
    assert ended.returncode == 143
    assert "acme/topic: goes on after " in errors
    assert errors.splitlines()[-1].startswith("Interrupted by SIGTERM after ")
    result = run_command("train", recipe, "--resume")
    assert result.code == 0, result.err
    assert_as_undisturbed(recipe, tiny)


@pytest.mark.slow
def test_a_process_killed_at_twenty_random_moments(
    programs: Path, tiny: Backbone, tiny_folder: Path
) -> None:
    recipe, draws = long_recipe(tiny_folder), random.Random(0)
    for moment in sorted(draws.sample(range(1, 170), 20)):
        process = started(programs, recipe, "--resume")
        wait_for_step(process, moment)
        time.sleep(draws.random() * 0.02)
        process.kill()
        process.communicate()
    result = run_command("train", recipe, "--resume")
    assert result.code == 0, result.err
    assert_as_undisturbed(recipe, tiny)
