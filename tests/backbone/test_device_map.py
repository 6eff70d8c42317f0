"""Backbones whose layers lie elsewhere answer and train as the whole backbone does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accelerate.utils
import pytest
import torch
from torch import Tensor

from adapterkit.backbone.model import Backbone
from adapterkit.backbone.weight_files import StoredTensor, read_tensors
from adapterkit.errors import BackboneError, RecipeError
from adapterkit.inference.predictor import Predictor
from adapterkit.training.full_finetuning import fine_tune
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train_many
from helpers.checkpoints import save_random_bert
from helpers.command_line import assert_one_line, run_command, write_recipe
from helpers.joint_training import assert_same_weights, recipe_for, write_rows

ON_DISK = {"": "cpu", "encoder.layer.0": "disk", "encoder.layer.2": "disk"}


@pytest.fixture(scope="module")
def whole(tiny_folder: Path) -> Backbone:
    """The backbone with the products of torch, as those of layers elsewhere are."""
    return Backbone.load(str(tiny_folder), device="cpu", prepared=False)


@pytest.fixture(scope="module")
def divided(tiny_folder: Path) -> Backbone:
    return Backbone.load(str(tiny_folder), device="cpu", prepared=False, device_map=ON_DISK)


def places(backbone: Backbone) -> list[bool]:
    """Whether each layer has its weights on the device."""
    layers: Any = backbone.model.get_submodule("encoder.layer")
    return [not any(p.is_meta for p in layer.parameters()) for layer in layers]


def test_every_layer_of_the_map_lies_on_disk(divided: Backbone, whole: Backbone) -> None:
    assert places(divided) == [False, True, False]
    assert divided.fingerprint == whole.fingerprint
    assert divided.n_parameters == whole.n_parameters
    assert divided.device == whole.device


def test_trainings_and_answers_are_those_of_the_whole(divided: Backbone, whole: Backbone) -> None:
    """Bit for bit: side by side, with dropout, in two lanes."""
    recipes = [
        recipe_for("a", write_rows(1, 30), {"type": "lora", "dropout": 0.2}, epochs=1),
        recipe_for("b", write_rows(2, 20), {"type": "prefix"}, epochs=1),
        recipe_for("c", write_rows(3, 20), {"type": "bottleneck"}, epochs=1),
    ]
    texts = ["my bank card", "the rain", "where is my money please", "a laptop"]
    answers = []
    for backbone in (whole, divided):
        adapters = train_many(recipes, backbone, progress=False)
        predictor = Predictor(backbone)
        for adapter in adapters:
            predictor.add(adapter)
        rows = [(name, text) for name in predictor.names for text in texts]
        answers.append((adapters, predictor(rows)))
    (adapters, expected), (others, found) = answers
    assert found == expected
    for one, other in zip(others, adapters, strict=True):
        assert_same_weights(one, other)
        assert one.training["losses"] == other.training["losses"]


def test_weights_are_read_only_while_their_layer_runs(
    divided: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def watched(wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        read.extend(wanted)
        return read_tensors(wanted)

    monkeypatch.setattr("adapterkit.backbone.stored_layers.read_tensors", watched)
    divided.word_embeddings([1])
    assert read == []
    Predictor(divided).predict(None, ["my bank card"])
    assert len(read) == 2 * 16
    assert places(divided) == [False, True, False]


def test_auto_follows_the_free_memory(
    tiny_folder: Path, whole: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = sum(p.numel() for p in whole.model.get_submodule("encoder.layer.0").parameters())
    rest = whole.n_parameters - 3 * layer
    for free, expected in ((1e9, [True] * 3), (4 * (rest + 2.5 * layer), [True, False, False])):
        monkeypatch.setattr(accelerate.utils, "get_max_memory", lambda f=free: {"cpu": int(f)})
        found = Backbone.load(str(tiny_folder), device="cpu", device_map="auto")
        assert places(found) == expected


def test_half_precision_is_that_of_the_whole(tiny_folder: Path) -> None:
    vectors = [
        Predictor(
            Backbone.load(
                str(tiny_folder), dtype="bfloat16", device="cpu", prepared=False, device_map=where
            )
        ).predict(None, ["my bank card"])
        for where in (None, ON_DISK)
    ]
    assert vectors[0] == vectors[1]


@pytest.mark.parametrize(
    ("device_map", "words"),
    [
        ({"": "cpu", "encoder.layer.7": "disk"}, "'encoder.layer.7' is no module of this backb"),
        ({"": "cpu", "encoder.layer.0.output": "disk"}, "is a part of a layer, and a layer lies"),
        ({"": "disk"}, "'embeddings.word_embeddings.weight' is on disk, but only layers, such as"),
        ({"encoder": "cpu"}, 'has no place for .*; "" stands for all the rest'),
        ({"": "tpu"}, "'' is on 'tpu'; expected cpu, disk or the number of a GPU"),
        ({"": 99}, "'' is on cuda:99, and torch sees no such GPU"),
        ("nowhere.json", "nowhere.json: cannot be read .*; expected 'auto' or a file of modules"),
    ],
)
def test_maps_that_are_not_exact_are_refused(
    tiny_folder: Path, device_map: Any, words: str
) -> None:
    with pytest.raises(BackboneError, match=words):
        Backbone.load(str(tiny_folder), device="cpu", device_map=device_map)


@pytest.mark.parametrize("quantization", ["int8", "8bit"])
def test_quantised_backbones_lie_on_one_device(tiny_folder: Path, quantization: Any) -> None:
    with pytest.raises(
        BackboneError, match=f"device_map: a backbone with quantization {quantization}"
    ):
        Backbone.load(str(tiny_folder), quantization=quantization, device_map=ON_DISK)


def test_a_recipe_and_commands_take_a_map(tiny_folder: Path) -> None:
    recipe = write_recipe(tiny_folder)
    text = recipe.read_text(encoding="utf-8")
    Path("map.json").write_text(json.dumps(ON_DISK), encoding="utf-8")
    plain = run_command("train", recipe, "--json")
    for value in ("map.json", json.dumps(ON_DISK)):
        recipe.write_text(text.replace("device: cpu", f"device: cpu, device_map: {value}"))
        mapped = run_command("train", recipe, "--json").json["metrics"]
        for split, scores in plain.json["metrics"].items():
            assert mapped[split] == pytest.approx(scores, rel=1e-4)  # products may be prepacked
    asked = ["predict", "acme/topic", "my card", "--json", "--device", "cpu"]
    asked += ["--backbone", str(tiny_folder)]
    found = run_command(*asked, "--device-map", "map.json").json
    assert found[0]["label"] == run_command(*asked).json[0]["label"]
    assert_one_line(run_command(*asked, "--device-map", "no.json"), "device_map: no.json: cannot")
    with pytest.raises(RecipeError, match=r"backbone.device_map: full fine-tuning changes all"):
        fine_tune(Recipe.load(recipe), progress=False)


@pytest.mark.slow
def test_memory_holds_one_layer_of_those_on_disk(tmp_path: Path) -> None:
    """Anonymous memory, which the system cannot drop, does not grow by layers on disk."""
    folder = save_random_bert(
        tmp_path / "large",
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "card"],
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=8,
    )

    def anonymous() -> int:
        text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
        return 1024 * next(int(x.split()[1]) for x in text.splitlines() if x[:10] == "Anonymous:")

    before = anonymous()
    places = {"": "cpu", **{f"encoder.layer.{n}": "disk" for n in range(8)}}
    backbone = Backbone.load(str(folder), device="cpu", device_map=places)
    with torch.inference_mode():
        Predictor(backbone).predict(None, ["card"])
    assert backbone.n_parameters * 4 > 400_000_000
    assert anonymous() - before < 60_000_000
