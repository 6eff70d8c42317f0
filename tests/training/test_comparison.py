"""Methods beside each other, and full fine-tuning, which must be the plain one."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from adapterkit.backbone.model import Backbone
from adapterkit.errors import DataError, RecipeError
from adapterkit.inference.labelled import prepare_rows
from adapterkit.methods.base import methods
from adapterkit.tasks.base import tasks
from adapterkit.tasks.types import Row
from adapterkit.training.comparison import _trial_of, compare
from adapterkit.training.full_finetuning import LEARNING_RATE, TrainableBackbone, fine_tune
from adapterkit.training.initial_adapter import fresh_adapter
from adapterkit.training.recipe import Recipe
from adapterkit.training.run import Run
from adapterkit.training.train import train
from adapterkit.training.trainable import TrainableAdapters
from adapterkit.training.training_section import Training
from helpers.adapters import MakeAdapter
from helpers.command_line import assert_refused, run_command

TOPICS = {"bank": "money fee bank account card", "sky": "rain sun wait slow fast"}


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> Recipe:
    """Rows of two topics; a word of a text belongs to its topic with probability 4/5."""
    rng, lines = random.Random(3), ["text,label,split"]
    for n in range(90):
        label = sorted(TOPICS)[n % 2]
        words = [
            rng.choice(TOPICS[label if rng.random() < 0.8 else "sky"].split()) for _ in range(5)
        ]
        split = ("train", "train", "train", "validation", "test")[n % 5]
        lines.append(f"{' '.join(words)},{label},{split}")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    (tmp_path / "r.yaml").write_text(
        "name: acme/topic\n"
        "data: {path: rows.csv}\n"
        "method: {type: lora, r: 2}\n"
        f"backbone: {{model: {tiny_folder}, device: cpu}}\n"
        "training: {epochs: 2, batch_size: 12, learning_rate: 1e-2}\n"
    )
    return Recipe.load(tmp_path / "r.yaml")


def settings(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **changes))


def test_every_method_is_trained_as_alone(recipe: Recipe, tiny: Backbone) -> None:
    result = compare(recipe, ["lora", "head", "full"], seeds=2, progress=False)
    assert (result["metric"], result["split"]) == ("accuracy", "test")
    assert result["rows"] == {"train": 54, "validation": 18, "test": 18}
    assert result["seeds"] == [0, 1]
    lora, head, full = result["methods"]
    validation_scores = []
    for n in range(2):
        alone = train(settings(recipe, seed=n), tiny, progress=False)
        assert lora["scores"][n] == alone.metrics["test"]["accuracy"]
        validation_scores.append(alone.metrics["validation"]["accuracy"])
        tuned = fine_tune(settings(recipe, seed=n, learning_rate=None), progress=False)
        assert full["scores"][n] == tuned.adapter.metrics["test"]["accuracy"]
    assert lora["validation"] == mean(validation_scores)
    assert lora["settings"]["r"] == 2
    assert lora["parameters"] == alone.n_parameters
    assert head["parameters"] == 2 * 32 + 2
    assert full["parameters"] == tiny.n_parameters + 2 * 32 + 2
    assert full["share"] == 1.0
    assert head["share"] < lora["share"] < 0.2
    assert 0 < head["bytes"] < lora["bytes"]
    assert full["bytes"] == 4 * full["parameters"]
    for entry in result["methods"]:
        assert entry["mean"] == mean(entry["scores"])
        assert entry["std"] == stdev(entry["scores"])
        assert entry["against_full"] == entry["mean"] - full["mean"]
        assert entry["seconds"] > 0


def test_only_the_recipes_own_method_has_its_rates(recipe: Recipe, tiny: Backbone) -> None:
    result = compare(recipe, ["bottleneck"], progress=False)
    training = replace(recipe.training, learning_rate=None)
    other = replace(recipe, method=methods()["bottleneck"](), training=training)
    alone = train(other, tiny, progress=False)
    (entry,) = result["methods"]
    assert entry["scores"] == [alone.metrics["test"]["accuracy"]]
    assert entry["std"] is None
    assert entry["against_full"] is None


def test_validation_rows_judge_where_there_are_no_test_rows(recipe: Recipe) -> None:
    data = replace(recipe.data, test=0.0)
    result = compare(replace(recipe, data=data), ["head"], progress=False)
    assert result["split"] == "validation"
    assert result["methods"][0]["validation"] is None
    with pytest.raises(RecipeError, match=r"^data: there are no validation or test rows"):
        compare(replace(recipe, data=replace(data, validation=0.0)), ["head"], progress=False)


@pytest.mark.parametrize(
    ("names", "seeds", "changes", "words"),
    [
        (["lora", "loar"], 1, {}, r"there is no method 'loar'; did you mean 'lora'\?"),
        (["lora", "full", "lora"], 1, {}, "the method 'lora' is there twice"),
        ([], 1, {}, "there is no method to compare; give some of lora, "),
        (["lora", "fusion"], 1, {}, "the method 'fusion' needs saved adapters; compare it by a"),
        (["head"], 0, {}, "seeds: expected at least 1, got 0"),
        (["head"], 1, {"ensemble": 2}, r"training\.ensemble: methods are compared by single"),
        (["head", "full"], 1, {"on_top_of": "x"}, r"training\.on_top_of: full fine-tuning has no"),
        (["head", "full"], 1, {"start_from": "x"}, r"training\.start_from: full fine-tuning has"),
    ],
)
def test_faults_are_told_before_anything_is_trained(
    recipe: Recipe, names: list[str], seeds: int, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        compare(settings(recipe, **changes), names, seeds, progress=False)


def test_gradients_of_full_fine_tuning_are_those_of_transformers(
    recipe: Recipe, tiny_folder: Path
) -> None:
    from transformers import AutoModel

    backbone = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    texts = ["where is my card", "rain", "the fee is not good at all"]
    rows = [
        Row({"text": text, "label": label}, text)
        for text, label in zip(texts, ("bank", "sky", "bank"), strict=True)
    ]
    task: Any = tasks()["classification"]
    probe = replace(recipe, method=methods()["head"](), task=task(pooling="mean", dropout=0.0))
    adapter = fresh_adapter(probe, backbone, rows)
    whole = TrainableBackbone(adapter, backbone)
    trainables = TrainableAdapters(backbone, [whole]).eval()
    run_of = Run(whole, {"train": prepare_rows(backbone, adapter, rows)}, recipe.training)
    trainables({0: run_of.next_micro_batches()[0]}).sum().backward()

    plain = AutoModel.from_pretrained(tiny_folder).eval()
    head = {name: tensor.clone().requires_grad_() for name, tensor in adapter.head.items()}
    read = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    states, mask = plain(**read).last_hidden_state, read["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    logits = F.linear(pooled, head["classifier.weight"], head["classifier.bias"])
    F.cross_entropy(logits, torch.tensor([0, 1, 0])).backward()

    compared = 0
    theirs = dict(plain.named_parameters())
    for name, parameter in whole.model.named_parameters():
        ours, reference = parameter.grad, theirs[name].grad
        if ours is None or reference is None:
            assert ours is reference  # the pooler, which mean pooling does not ask
            continue
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)
        compared += 1
    assert compared == 5 + 3 * 16
    for name, tensor in head.items():
        torch.testing.assert_close(whole.head[name.replace(".", "__")].grad, tensor.grad)


def test_every_weight_has_its_rate_and_no_bias_or_norm_decays(tiny_folder: Path) -> None:
    backbone = Backbone.load(str(tiny_folder), device="cpu", prepared=False)
    plain = Recipe.of({"name": "a", "data": {"path": "x"}, "method": {"type": "head"}})
    rows = [Row({"text": "a", "label": "x"}, "1"), Row({"text": "b", "label": "y"}, "2")]
    plain_adapter = fresh_adapter(plain, backbone, rows)
    whole = TrainableBackbone(plain_adapter, backbone)
    split = {"train": prepare_rows(backbone, plain_adapter, rows)}
    groups = Run(whole, split, Training()).optimizer.param_groups
    assert sum(p.numel() for g in groups for p in g["params"]) == backbone.n_parameters + 2 * 33
    kept = {id(p) for g in groups if g["weight_decay"] == 0.0 for p in g["params"]}
    model = dict(whole.model.named_parameters())
    assert {name for name, p in model.items() if id(p) in kept} == {
        name for name in model if name.endswith("bias") or "LayerNorm" in name
    }
    of_model = {id(p) for p in model.values()}
    rates = {g["initial_lr"] for g in groups if id(g["params"][0]) in of_model}
    assert rates == {LEARNING_RATE}


def test_the_best_epoch_of_full_fine_tuning_is_kept(recipe: Recipe) -> None:
    """The weights go back with the head: the last epoch's scores are others."""
    wild = settings(recipe, epochs=6, learning_rate=2e-2, schedule="constant")
    adapter = fine_tune(wild, progress=False).adapter
    history = adapter.training["history"]
    kept = history[adapter.training["epoch"] - 1]["validation"]
    assert adapter.training["epoch"] < 6
    assert history[-1]["validation"] != kept
    assert adapter.metrics["validation"] == pytest.approx(kept)


def test_full_fine_tuning_repeats_itself_and_leaves_the_generator_alone(recipe: Recipe) -> None:
    before = torch.get_rng_state()
    one, two = (fine_tune(recipe, progress=False).adapter for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.training["losses"] == two.training["losses"]
    other = fine_tune(settings(recipe, seed=1), progress=False).adapter
    assert other.training["losses"] != one.training["losses"]


def test_the_command_prints_a_table_and_draws(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_command(
        "compare", "r.yaml", "--methods", "lora, full", "--seeds", "2", "--plot", "c.png"
    )
    assert result.code == 0, result.err
    header, lora, full, last = result.out.splitlines()
    columns = "method validation accuracy std against full trained share kB seconds"
    assert header.split() == columns.split()
    assert lora.split()[0] == "lora"
    assert full.split()[:1] + full.split()[4:6] == ["full", "+0.0", "points"]
    assert last == ("accuracy of the test rows (54 train, 18 validation, 18 test), mean of 2 seeds")
    with Image.open(tmp_path / "c.png") as image:
        assert image.width > 600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "r.yaml", "rows.csv"]

    def fail(path: Path, content: bytes) -> None:
        raise DataError(f"{path}: cannot be written (no space left on device)")

    monkeypatch.setattr("adapterkit.cli.compare.write_output", fail)
    failed = run_command("compare", "r.yaml", "--methods", "head", "--plot", "d.png", "--json")
    assert (failed.code, failed.err.count("cannot be written")) == (2, 1)
    assert [entry["method"] for entry in json.loads(failed.out)["methods"]] == ["head"]


def test_faulty_commands_are_one_line(recipe: Recipe) -> None:
    assert_refused("compare", "r.yaml", "--plot", "c.pdf", words="expected a file ending in .png")
    assert_refused("compare", "r.yaml", "--plot", "no/c.png", words="there is no folder no")
    assert_refused("compare", "r.yaml", "--methods", "lora,none", words="no method 'none'")
    assert_refused("compare", "r.yaml", "--methods", ",", words="there is no method to compare")


def test_a_score_that_is_undefined_ends_a_comparison_with_one_line(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    metrics = {"validation": {"loss": 1.0, "accuracy": 0.5}, "test": {"loss": 1.0}}
    adapter = replace(make_adapter(tiny), metrics=metrics)
    with pytest.raises(RecipeError, match=r"^the test rows leave accuracy undefined"):
        _trial_of(adapter, {}, 1, 0.1, 1)
