"""The 8-bit and 4-bit backbone by bitsandbytes: size, printed output, scores and training."""

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
def int8() -> Backbone:
    return Backbone.load("minilm", quantization="8bit", device="cpu")


def linear_bytes(backbone: Backbone) -> int:
    layers = backbone.model.get_submodule(backbone.geometry.layers_path)
    return sum(m.weight.nbytes for m in layers.modules() if isinstance(m, nn.Linear))


def test_8bit_weights_take_a_quarter(minilm: Backbone, int8: Backbone) -> None:
    assert linear_bytes(int8) <= 0.3 * linear_bytes(minilm)
    assert int8.fingerprint == minilm.fingerprint
    assert type(int8.model.pooler.dense) is nn.Linear  # type: ignore[union-attr]


def test_4bit_weights_take_an_eighth(minilm: Backbone) -> None:
    int4 = Backbone.load("minilm", quantization="4bit", device="cpu")
    assert linear_bytes(int4) <= 0.15 * linear_bytes(minilm)
    assert int4.fingerprint == minilm.fingerprint


@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
def test_8bit_scores_are_close_and_nothing_is_printed(
    minilm: Backbone,
    int8: Backbone,
    make_adapter: MakeAdapter,
    capfd: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    adapter = make_adapter(minilm, kind)
    requests = [("acme/intent", text) for text in TEXTS]
    exact, near = (Predictor(backbone, [adapter])(requests) for backbone in (minilm, int8))
    assert capfd.readouterr() == ("", "")
    for exact_answer, answer in zip(exact, near, strict=True):
        assert exact_answer["score"] == pytest.approx(answer["score"], abs=0.05)


@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
def test_gradients_reach_adapters_through_8bit_weights(
    minilm: Backbone, int8: Backbone, make_adapter: MakeAdapter, kind: str
) -> None:
    grads = []
    for backbone in (minilm, int8):
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
def test_8bit_trains_as_well_as_float32(
    minilm: Backbone, int8: Backbone, shared_data: Path, tmp_path: Path
) -> None:
    content = {
        "name": "bank/intent",
        "data": {"path": str(shared_data / "banking77" / "data.csv"), "validation": 0},
        "method": {"type": "lora"},
        "training": {"epochs": 2},
    }
    recipe = Recipe.of(content)
    scores = {}
    for name, backbone in (("float32", minilm), ("8bit", int8)):
        adapter = train(recipe, backbone, progress=False)
        scores[name] = adapter.metrics["test"]["accuracy"]
    assert scores["8bit"] >= scores["float32"] - 0.01
    folder = Store(tmp_path).publish(adapter, int8.geometry)
    rows = recipe.data.load(Path(), 0, recipe.task)["test"]
    again = evaluate(int8, load_adapter(folder, int8), rows)
    assert again["accuracy"] == pytest.approx(scores["8bit"], abs=0.005)
