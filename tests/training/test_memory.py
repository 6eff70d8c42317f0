"""Training in less memory: batches in pieces learn what whole batches learn."""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import TrainingInterruptedError, is_out_of_memory
from adapterkit.ops.peak_allocation import PeakAllocation
from adapterkit.training.callbacks.base import Callback, Event
from adapterkit.training.full_finetuning import fine_tune
from adapterkit.training.plan import Plan
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train, train_many
from adapterkit.training.trainable import TrainableAdapter, TrainableAdapters
from helpers.command_line import run_command, write_recipe
from helpers.joint_training import (
    assert_equals_solo,
    assert_same_weights,
    recipe_for,
    train_alone,
    trained_once,
    with_changes,
    write_rows,
)
from helpers.paths import ROOT
from helpers.resumable import DROPOUT, LORA, recipes
from helpers.task_rows import task_recipe


class LittleMemory:
    """Lets no forward with gradients have more than so many tokens.

    Attributes:
        sizes: Tokens of every forward that was tried.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: float) -> None:
        self.sizes: list[int] = []
        outputs = TrainableAdapters.outputs

        def limited(module: Any, micro_batches: Any, adapters: Any) -> Any:
            tokens = sum(micro_batch.n_tokens for micro_batch in micro_batches.values())
            self.sizes.append(tokens)
            if tokens > most and torch.is_grad_enabled():
                outputs(module, micro_batches, adapters)
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
            return outputs(module, micro_batches, adapters)

        monkeypatch.setattr(TrainableAdapters, "outputs", limited)


def one_recipe(**training: Any) -> Recipe:
    return recipe_for(
        "t/one", write_rows(1, 30), LORA, DROPOUT, **{"batch_size": 16, "epochs": 1, **training}
    )


@pytest.mark.parametrize("kind", ["one", "augmented", "adversarial"])
def test_a_budget_changes_only_rounding(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    recipe = with_changes(*recipes(kind, tmp_path), training={"epochs": 1})
    whole = train_alone(recipe, tiny)
    memory = LittleMemory(monkeypatch, math.inf)
    cut = train_alone(with_changes(recipe, training={"max_tokens": 30}), tiny)
    assert max(memory.sizes) <= 30
    assert cut.training["max_tokens"] == 30
    assert_same_weights(cut, whole, tolerance=1e-3)
    for (_, one), (_, other) in zip(cut.training["losses"], whole.training["losses"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("change", [{"max_tokens": 40}, {"accumulation": 3}])
def test_rows_that_are_compared_are_cut_without_a_change(
    tiny: Backbone, tmp_path: Path, change: dict[str, int]
) -> None:
    """In-batch negatives: every text still meets all others of its batch."""
    settings = {"dimensions": 5, "symmetric": True, "dropout": 0.2}
    recipe = task_recipe("embedding", tmp_path, **settings)
    recipe = with_changes(recipe, method=LORA, training={"epochs": 1})
    whole = trained_once(recipe, tiny)
    cut = train_alone(with_changes(recipe, training=change), tiny)
    assert_same_weights(cut, whole, tolerance=1e-3)
    for (_, one), (_, other) in zip(cut.training["losses"], whole.training["losses"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_auto_is_decided_by_the_free_memory(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained_once(one_recipe(), tiny)
    with caplog.at_level(logging.INFO, "adapterkit"):
        roomy = train_alone(one_recipe(max_tokens="auto"), tiny)
    assert_same_weights(roomy, whole)
    assert "t/one: max_tokens: auto is 4096 tokens at a time" in caplog.text
    monkeypatch.setattr("adapterkit.training.token_budget.available_memory", lambda device: 600_000)
    memory = LittleMemory(monkeypatch, math.inf)
    cut = train_alone(one_recipe(max_tokens="auto"), tiny)
    assert 1 < cut.training["max_tokens"] < 64
    assert max(memory.sizes[3:]) <= cut.training["max_tokens"]  # after three trials
    assert_same_weights(cut, whole, tolerance=1e-3)


def test_a_forward_that_does_not_fit_is_computed_in_smaller_ones(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained_once(one_recipe(), tiny)
    LittleMemory(monkeypatch, 30)
    with caplog.at_level(logging.INFO, "adapterkit"):
        cut = train_alone(one_recipe(), tiny)
    assert cut.training["max_tokens"] <= 30
    assert caplog.text.count("t/one: too little memory for") == 2
    assert_same_weights(cut, whole, tolerance=1e-3)


def test_runs_side_by_side_fall_back_together(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [
        recipe_for("a", write_rows(1, 30), LORA, seed=1),
        recipe_for("b", write_rows(2, 20), {"type": "prefix"}, ensemble=2),
        with_changes(
            recipe_for("c", write_rows(3, 30), {"type": "bottleneck"}),
            training={"max_tokens": "auto"},
        ),
    ]
    alone = [trained_once(recipe, tiny) for recipe in chosen]
    memory = LittleMemory(monkeypatch, 25)
    for adapter, other in zip(train_many(chosen, tiny, progress=False), alone, strict=True):
        assert_equals_solo(adapter, other)
    assert max(memory.sizes) > 25  # so it fell back


def test_a_row_that_does_not_fit_ends_its_own_run(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LittleMemory(monkeypatch, 0)
    words = (
        "Error: acme/topic: there is too little memory for one row of 4 tokens; shorten the texts"
    )
    for options in ([], ["--set", "training.max_tokens=auto"]):
        result = run_command("train", write_recipe(tiny_folder), *options)
        assert result.code == 2
        assert result.out == ""
        assert result.err.splitlines()[-1].startswith(words)
        assert "Traceback" not in result.err
    assert not Path("adapters/acme").exists()


@pytest.mark.parametrize("kind", ["one", "side by side"])
def test_gradient_checkpointing_changes_no_bit(tiny: Backbone, tmp_path: Path, kind: str) -> None:
    """With dropout, prefixes, ensembles, adversarial steps and accumulation."""
    chosen = [with_changes(r, training={"epochs": 1}) for r in recipes(kind, tmp_path)]
    again = [with_changes(r, training={"gradient_checkpointing": True}) for r in chosen]
    kept = train_many(chosen, tiny, progress=False)
    for recomputed, adapter in zip(train_many(again, tiny, progress=False), kept, strict=True):
        for one, other in zip(recomputed.members, adapter.members, strict=True):
            assert_same_weights(one, other)
        assert recomputed.training["losses"] == adapter.training["losses"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_gradient_checkpointing_keeps_less(tiny: Backbone, precision: str) -> None:
    peaks = []
    for recompute in (False, True):
        recipe = one_recipe(gradient_checkpointing=recompute, mixed_precision=precision)
        plan = Plan.of(recipe, tiny)
        trainables = TrainableAdapters(tiny, map(TrainableAdapter, plan.members), None, recompute)
        (run,) = plan.runs(iter(trainables.members))
        with PeakAllocation() as allocation, torch.autocast("cpu", enabled=precision == "bf16"):
            (loss,) = trainables({0: run.batches.longest()})
        loss.backward()
        peaks.append((allocation.peak, [p.grad for p in trainables.parameters()]))
    (kept, gradients), (recomputed, same) = peaks
    assert recomputed < 0.7 * kept
    torch.testing.assert_close(same, gradients, rtol=0, atol=0)


def test_the_dropout_of_a_backbone_in_training_is_drawn_again(tiny_folder: Path) -> None:
    recipe = with_changes(one_recipe(), backbone={"model": str(tiny_folder), "device": "cpu"})
    kept = fine_tune(recipe, progress=False)
    again = with_changes(recipe, training={"gradient_checkpointing": True})
    recomputed = fine_tune(again, progress=False)
    assert recomputed.adapter.training["losses"] == kept.adapter.training["losses"]


class Ending(Callback):
    """Ends a training after some steps as a signal does."""

    type = "ending"

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step(self, event: Event) -> None:
        if len(event.runs[0].losses) == self.after:
            os.kill(os.getpid(), 15)


def test_a_resumed_training_has_the_budget_that_it_was_ended_with(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = one_recipe(max_tokens="auto", epochs=4)
    with monkeypatch.context() as patch:
        LittleMemory(patch, 30)
        whole = train_alone(recipe, tiny)
    store = Store(tmp_path / "store")
    with monkeypatch.context() as patch:
        LittleMemory(patch, 30)
        with pytest.raises(TrainingInterruptedError):
            train(recipe, tiny, store=store, callbacks=[Ending(3)], progress=False)
    resumed = train(recipe, tiny, store=store, resume=True, progress=False)
    assert resumed.training["max_tokens"] == whole.training["max_tokens"] <= 30
    assert_same_weights(resumed, whole)
    other = with_changes(recipe, training={"max_tokens": 9})
    with pytest.raises(TrainingInterruptedError):
        train(recipe, tiny, store=store, callbacks=[Ending(3)], progress=False)
    changed = train(other, tiny, store=store, resume=True, progress=False)
    assert changed.training["max_tokens"] == 9
    assert_same_weights(changed, whole, tolerance=1e-3)


def test_an_error_that_follows_from_a_lack_of_memory_is_one() -> None:
    for reason, expected in (("failed to map segment from shared object", True), ("gone", False)):
        error = OSError("the library could not be found")  # as the binding of LLVM says
        error.__context__ = OSError(f"lib.so: {reason}")
        assert is_out_of_memory(error) == expected


LIMITED = """
import resource, sys
from pathlib import Path

import evaluate, matplotlib.pyplot  # what is imported later has no place in what is limited

from adapterkit.backbone.model import Backbone
from adapterkit.cli.app import app

def main(recipe, megabytes, *options):
    load = Backbone.load_with
    def limited(*args, **kwargs):
        backbone = load(*args, **kwargs)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(megabytes) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return backbone
    Backbone.load_with = limited
    app(["train", recipe, *options])

main(*sys.argv[1:])
"""


@pytest.mark.slow
def test_the_limit_of_a_real_process_is_met(tiny_folder: Path) -> None:
    """`ulimit -v`: without a budget the training falls back, and `auto` never meets the limit."""
    sections = "{epochs: 1, batch_size: 32, learning_rate: 1e-2}"
    recipe = write_recipe(tiny_folder, training=sections).read_text(encoding="utf-8")
    Path("r.yaml").write_text(re.sub(r"model: [^,]+", "model: minilm", recipe), encoding="utf-8")
    texts = [" ".join(["card", "rain"][n % 2] for _ in range(400)) for n in range(32)]
    lines = [f"{text},{n % 2},train" for n, text in enumerate(texts)]
    Path("rows.csv").write_text("\n".join(["text,label,split", *lines]), encoding="utf-8")
    Path("limited.py").write_text(LIMITED, encoding="utf-8")

    def trained(megabytes: int, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "limited.py", "r.yaml", str(megabytes), *options]
        return subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )

    falling = trained(900)
    assert falling.returncode == 0, falling.stderr[-3000:]
    assert "too little memory for 11658 tokens at a time, so at most 5829 from" in falling.stderr
    auto = trained(900, "--set", "training.max_tokens=auto")
    assert auto.returncode == 0, auto.stderr[-3000:]
    assert "too little memory" not in auto.stderr
    assert re.search(r"max_tokens: auto is (1024|2048) tokens", auto.stderr), auto.stderr
    none = trained(20)
    assert none.returncode == 2
    assert none.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in none.stderr
