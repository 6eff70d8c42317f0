"""A comparison or a cross-validation that was ended goes on with what it has not trained yet."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapterkit.adapter.store import Store
from adapterkit.atomic import write_file
from adapterkit.backbone.model import Backbone
from adapterkit.data.dataset import Data
from adapterkit.errors import RecipeError
from adapterkit.training import partial_results
from adapterkit.training.comparison import compare
from adapterkit.training.cross_validation import cross_validate
from adapterkit.training.recipe import Recipe
from adapterkit.training.run import Run
from helpers.command_line import CommandResult, assert_one_line, run_command, write_recipe
from helpers.joint_training import write_rows

TRAINING = "{epochs: 2, batch_size: 12, learning_rate: 1e-2}"
COMPARE = ("compare", "r.yaml", "--methods", "lora,full", "--json")
CROSS_VALIDATE = ("cross-validate", "r.yaml", "--set", "data.folds=2", "--json")


class Steps:
    """Counts the steps of all trainings, and sends this process a signal after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0
        self.number = signal.SIGTERM
        self.end_after = 0
        record = Run.record_loss

        def record_loss(run: Run, loss: float) -> None:
            record(run, loss)
            self.n += 1
            if self.n == self.end_after:
                signal.raise_signal(self.number)

        monkeypatch.setattr(Run, "record_loss", record_loss)

    def run(self, *command: str, end_after: int = 0) -> CommandResult:
        self.n, self.end_after = 0, end_after
        return run_command(*command)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Steps(monkeypatch)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def recipe(tiny_folder: Path) -> Path:
    rows = write_rows(1, 30)
    return write_recipe(tiny_folder, data=f"{{path: {rows}}}", training=TRAINING)


def without_times(document: Any) -> Any:
    """The document without what depends on the time: also the size of a card that has it."""
    for entry in document.get("methods", []):
        assert entry.pop("seconds") >= 0
        assert entry.pop("bytes") > 0
    return document


@pytest.mark.parametrize(
    ("command", "moments"),
    [
        (COMPARE, [(3, signal.SIGTERM), (3, signal.SIGINT)]),
        (CROSS_VALIDATE, [(3, signal.SIGINT), (3, signal.SIGTERM)]),
    ],
    ids=["compare", "cross-validate"],
)
def test_a_command_that_was_ended_goes_on(
    recipe: Path, steps: Steps, command: tuple[str, ...], moments: list[tuple[int, signal.Signals]]
) -> None:
    """Full fine-tuning as well, whose backbone draws its dropout from torch's generator."""
    expected = without_times(steps.run(*command).json)
    in_all, taken = steps.n, 0
    assert not Path("adapters").exists()
    for moment, steps.number in moments:
        result = steps.run(*command, "--resume", end_after=moment)
        assert result.code == 128 + steps.number
        assert result.out == ""
        last = result.err.splitlines()[-1]
        assert last.startswith(f"Interrupted by {steps.number.name} after ")
        assert "--resume goes on" in last
        taken += steps.n
    found = without_times(steps.run(*command, "--resume").json)
    assert found == expected
    assert taken + steps.n == in_all, "no step was taken twice"
    assert not Path("adapters").exists()


def test_another_recipe_and_other_rows_are_refused(recipe: Path, steps: Steps) -> None:
    assert steps.run(*COMPARE, end_after=5).code == 143
    folder = Path("adapters/.partial-results/compare=acme=topic")
    before = sorted(path.name for path in folder.iterdir())
    assert before == ["full-0", "lora-0.json", "origin.json"]
    words = "of another compare: method.r was 2 and is now 3"
    assert_one_line(steps.run(*COMPARE, "--set", "method.r=3", "--resume"), words)
    rows = Path(write_rows(1, 30))
    written = rows.read_text(encoding="utf-8")
    rows.write_text(written.replace("bank", "card", 1), encoding="utf-8")
    assert_one_line(steps.run(*COMPARE, "--resume"), "of another compare: other rows")
    assert sorted(path.name for path in folder.iterdir()) == before
    rows.write_text(written, encoding="utf-8")
    (folder / "lora-0.json").write_text("{", encoding="utf-8")
    assert_one_line(steps.run(*COMPARE, "--resume"), "lora-0.json: cannot be read")
    anew = steps.run("compare", "r.yaml", "--methods", "head")
    assert anew.code == 0
    assert not Path("adapters").exists()


def test_a_full_disk_ends_with_one_line_and_leaves_the_results_before(
    recipe: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: bytes) -> None:
        if path.name == "fold-1.json":
            raise OSError(28, os.strerror(28), str(path))
        write_file(path, content)

    with monkeypatch.context() as disk:
        disk.setattr(partial_results, "write_file", write)
        result = steps.run(*CROSS_VALIDATE)
        assert result.code == 2
        (line,) = [line for line in result.err.splitlines() if line.startswith("Error: ")]
        assert "fold-1.json: cannot be written (No space left on device); with --resume" in line
    in_all = steps.n
    assert steps.run(*CROSS_VALIDATE, "--resume").code == 0
    assert steps.n == in_all / 2


def test_what_is_kept_needs_a_store(recipe: Path, tiny: Backbone) -> None:
    plan = Recipe.load(recipe)
    with pytest.raises(RecipeError, match=r"^resume: results are kept in a store; give one"):
        compare(plan, ["head"], resume=True, progress=False)
    with pytest.raises(RecipeError, match=r"^resume: results are kept in a store; give one"):
        cross_validate(plan, tiny, resume=True, progress=False)
    Path("file").write_text("", encoding="utf-8")
    refused = run_command("compare", "r.yaml", "--store", "file")
    assert_one_line(refused, "file: not a folder that can be written to")
    assert Store("adapters").names() == []


def test_rows_are_read_once(recipe: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = Data.read

    def counted(*arguments: Any, **options: Any) -> Any:
        reads.append(arguments)
        return read(*arguments, **options)

    monkeypatch.setattr(Data, "read", counted)
    plan = Recipe.load(recipe, ["training.epochs=1", "method={type: head}", "data.folds=2"])
    compare(plan, ["head"], seeds=2, progress=False)
    assert len(reads) == 1
    cross_validate(plan, tiny, progress=False)
    assert len(reads) == 2
