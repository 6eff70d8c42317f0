"""The 8-bit and 4-bit backbone by bitsandbytes: small, quiet, and as good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.forward import forward
from adapterkit.inference.pipeline import evaluate
from adapterkit.inference.predictor import Predictor
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.adapters import MakeAdapter
from helpers.sequences import tokenise

TEXTS = ["where is my card", "the network is slow today", "please close my account " * 10]


@pytest.fixture(scope="module")
def eight() -> Backbone:
    return Backbone.load("minilm", quantization="8bit", device="cpu")


def linear_bytes(backbone: Backbone) -> int:
    layers = backbone.model.get_submodule(backbone.geometry.layers_path)
    return sum(m.weight.nbytes for m in layers.modules() if isinstance(m, nn.Linear))


def test_eight_bits_take_a_quarter(minilm: Backbone, eight: Backbone) -> None:
    assert linear_bytes(eight) <= 0.3 * linear_bytes(minilm)
    assert eight.fingerprint == minilm.fingerprint
    assert type(eight.model.pooler.dense) is nn.Linear  # type: ignore[union-attr]


def test_four_bits_take_an_eighth(minilm: Backbone) -> None:
    four = Backbone.load("minilm", quantization="4bit", device="cpu")
    assert linear_bytes(four) <= 0.15 * linear_bytes(minilm)
    assert four.fingerprint == minilm.fingerprint


@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
def test_eight_bit_answers_are_near_and_quiet(
    minilm: Backbone,
    eight: Backbone,
    make_adapter: MakeAdapter,
    capfd: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    adapter = make_adapter(minilm, kind)
    asked = [("acme/intent", text) for text in TEXTS]
    exact, near = (Predictor(backbone, [adapter])(asked) for backbone in (minilm, eight))
    assert capfd.readouterr() == ("", "")
    for one, other in zip(exact, near, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=0.05)


@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
def test_gradients_reach_adapters_through_eight_bits(
    minilm: Backbone, eight: Backbone, make_adapter: MakeAdapter, kind: str
) -> None:
    grads = []
    for backbone in (minilm, eight):
        adapter = make_adapter(minilm, kind)
        leaves = list(adapter.tensors.values())
        for tensor in leaves:
            tensor.requires_grad_()
        rows = [(adapter, row) for row in tokenise(backbone, TEXTS, None, 64)]
        (piece,) = forward(backbone, rows)
        (piece.values * torch.tensor([1.0, -1.0])).sum().backward()
        grads.append(torch.cat([t.grad.flatten() for t in leaves if t.grad is not None]))
    assert torch.nn.functional.cosine_similarity(grads[0], grads[1], dim=0) > 0.97


@pytest.mark.slow
def test_eight_bits_train_as_well_as_float32(
    minilm: Backbone, eight: Backbone, shared_data: Path, tmp_path: Path
) -> None:
    plain = {
        "name": "bank/intent",
        "data": {"path": str(shared_data / "banking77" / "data.csv"), "validation": 0},
        "method": {"type": "lora"},
        "training": {"epochs": 2},
    }
    recipe = Recipe.of(plain)
    scores = {}
    for name, backbone in (("float32", minilm), ("8bit", eight)):
        adapter = train(recipe, backbone, progress=False)
        scores[name] = adapter.metrics["test"]["accuracy"]
    assert scores["8bit"] >= scores["float32"] - 0.01
    folder = Store(tmp_path).publish(adapter, eight.geometry)
    rows = recipe.data.load(Path(), 0, recipe.task)["test"]
    again = evaluate(eight, load_adapter(folder, eight), rows)
    assert again["accuracy"] == pytest.approx(scores["8bit"], abs=0.005)
