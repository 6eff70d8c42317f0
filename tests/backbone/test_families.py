"""Families of models: required declarations, and families from outside the package."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adapterkit_example.family as example
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.families.base import Family, families
from adapterkit.backbone.families.bert import Bert
from adapterkit.backbone.geometry import LINEAR_SITES, Site
from adapterkit.backbone.model import Backbone
from adapterkit.client.http import Client
from adapterkit.errors import BackboneError
from adapterkit.inference.forward import forward
from adapterkit.inference.predictor import Predictor
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.adapters import MakeAdapter
from helpers.sequences import logits_of, tokenise
from helpers.server import serving

TEXTS = ["where is my card", "a", "the network is slow today", "i want to close the account " * 3]


class FusedAttention(example.Attention):
    """Query, key and value from one linear, key first."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        del self.q, self.k, self.v
        self.kqv = nn.Linear(config.width, 3 * config.width)

    def projections(self, states: Tensor) -> tuple[Tensor, ...]:
        key, query, value = self.kqv(states).chunk(3, dim=-1)
        return query, key, value


class FusedBertConfig(example.RenamedBertConfig):
    model_type = "fused-bert"


class FusedBert(example.RenamedBert):
    config_class = FusedBertConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for index, block in enumerate(self.tower):
            block.mixer = FusedAttention(config, index)


class FusedBertFamily(example.RenamedBertFamily):
    type: ClassVar[str] = "fused-bert"
    model_types: ClassVar[tuple[str, ...]] = ("fused-bert",)

    def sites(self, config: Any) -> dict[str, Site]:
        w = config.width
        fused = {"key": (0, w), "query": (w, 2 * w), "value": (2 * w, 3 * w)}
        sites = super().sites(config)
        return {
            name: Site("mixer.kqv", fused[name]) if name in fused else sites[name] for name in sites
        }


def register_fused() -> None:
    from transformers import AutoConfig, AutoModel

    AutoConfig.register("fused-bert", FusedBertConfig, exist_ok=True)
    AutoModel.register(FusedBertConfig, FusedBert, exist_ok=True)


OUTSIDE: dict[str, Family] = {
    "renamed-bert": example.RenamedBertFamily(),
    "fused-bert": FusedBertFamily(),
}


@pytest.fixture(autouse=True)
def _families_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fused()
    for model_type, family in OUTSIDE.items():
        monkeypatch.setitem(families(), model_type, family)


NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "places",
    "embeddings.token_type_embeddings": "segments",
    "embeddings.LayerNorm": "entry_norm",
    "encoder.layer": "tower",
    "attention.self.query": "mixer.q",
    "attention.self.key": "mixer.k",
    "attention.self.value": "mixer.v",
    "attention.output.dense": "mixer.out",
    "attention.output.LayerNorm": "mixer_norm",
    "intermediate.dense": "up",
    "output.dense": "end.down",
    "output.LayerNorm": "end.norm",
}
"""Modules of transformers' BERT to those of the renamed one."""


def renamed_weights(bert: Path) -> dict[str, Tensor]:
    """The weights of a BERT checkpoint under the names of the renamed one."""
    weights = {}
    for name, tensor in load_file(bert / "model.safetensors").items():
        if not name.startswith("pooler"):
            for old, new in NAMES.items():
                name = name.replace(old, new)
            weights[name] = tensor
    return weights


def fused_weights(bert: Path) -> dict[str, Tensor]:
    """The same weights with query, key and value in one tensor."""
    weights = renamed_weights(bert)
    for layer in range(3):
        for end in ("weight", "bias"):
            parts = [weights.pop(f"tower.{layer}.mixer.{part}.{end}") for part in "kqv"]
            weights[f"tower.{layer}.mixer.kqv.{end}"] = torch.cat(parts)
    return weights


def save_outside(bert: Path, folder: Path, model_type: str) -> Path:
    """A tiny BERT checkpoint as one of a family from outside, with the same tokenizer."""
    config = json.loads((bert / "config.json").read_text())
    weights = renamed_weights(bert) if model_type == "renamed-bert" else fused_weights(bert)
    shutil.copytree(bert, folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "model_type": model_type,
        "n_tokens": config["vocab_size"],
        "width": config["hidden_size"],
        "inner_width": config["intermediate_size"],
        "depth": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "max_tokens": config["max_position_embeddings"],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(params=sorted(OUTSIDE))
def outside_folder(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny backbone as a checkpoint of each family from outside."""
    return save_outside(tiny_folder, tmp_path / "checkpoint", request.param)


@pytest.fixture
def outside(outside_folder: Path) -> Backbone:
    return Backbone.load(str(outside_folder), device="cpu")


# What is refused.


def test_two_families_cannot_claim_one_model_type(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Bert):
        type: ClassVar[str] = "other"

    kinds = {"bert": Bert, "other": Other}
    monkeypatch.setattr("adapterkit.backbone.families.base.discover", lambda *_: kinds)
    with pytest.raises(BackboneError, match="'bert' and 'other' both claim the model type 'bert'"):
        families.__wrapped__()


class Forgetful(example.RenamedBertFamily):
    """A family with the fingerprint rule of BERT, which does not know `tower`."""

    def is_backbone_weight(self, name: str) -> bool:
        return Bert().is_backbone_weight(name)


def test_a_family_that_forgets_weights_is_refused(
    outside_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model_type in OUTSIDE:
        monkeypatch.setitem(families(), model_type, Forgetful())
    with pytest.raises(BackboneError, match=r"leaves the weight 'words\.weight' out") as caught:
        Backbone.load(str(outside_folder), device="cpu")
    assert "\n" not in str(caught.value)


# A family from outside computes what the same BERT computes.

EVERYWHERE: list[tuple[str, dict[str, Any]]] = [
    ("head", {}),
    ("lora", {"targets": LINEAR_SITES}),
    ("lora", {"targets": ("value",), "layers": (1, 2), "r": 3}),
    ("lora", {"targets": ("query", "key"), "layers": (0,)}),
    ("prefix", {"num_virtual_tokens": 4}),
    ("bottleneck", {"placement": "pfeiffer"}),
    ("bottleneck", {"placement": "houlsby"}),
    ("bottleneck", {"placement": "parallel"}),
]


def test_outputs_with_adapters_equal_those_of_bert(
    tiny: Backbone, outside: Backbone, make_adapter: MakeAdapter
) -> None:
    inputs = tokenise(tiny, TEXTS, None, 50)
    rows: list[Any] = []
    for seed, (method, settings) in enumerate(EVERYWHERE):
        adapter = make_adapter(tiny, method, name=f"t/{seed}", seed=seed, **settings)
        rows += [(adapter, one) for one in inputs]
    with torch.inference_mode():
        expected, found = forward(tiny, rows), forward(outside, rows)
    assert len(found) == len(EVERYWHERE)
    for one, other in zip(found, expected, strict=True):
        assert one.rows == other.rows
        torch.testing.assert_close(one.values, other.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("method", "settings"), EVERYWHERE[1:])
def test_gradients_equal_those_of_bert(
    tiny: Backbone,
    outside: Backbone,
    make_adapter: MakeAdapter,
    method: str,
    settings: dict[str, Any],
) -> None:
    inputs, gradients = tokenise(tiny, TEXTS, None, 50), []
    for backbone in (tiny, outside):
        adapter = make_adapter(tiny, method, **settings)
        tensors = [tensor.requires_grad_() for tensor in adapter.tensors.values()]
        (piece,) = forward(backbone, [(adapter, one) for one in inputs])
        piece.values.square().sum().backward()
        gradients.append([tensor.grad for tensor in tensors])
    for one, other in zip(*gradients, strict=True):
        assert other is not None
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# A family from outside trains, saves, loads and serves.


def recipe_of(folder: Path, backbone: Path) -> Recipe:
    rows = [("my money and the fee", "money"), ("rain and sun", "weather")] * 12
    lines = ["text,label,split"]
    for n, (text, label) in enumerate(rows):
        lines.append(f"{text},{label},{'validation' if n % 4 == 3 else 'train'}")
    (folder / "rows.csv").write_text("\n".join(lines))
    return Recipe.of(
        {
            "name": "t/topic",
            "data": {"path": str(folder / "rows.csv")},
            "backbone": {"model": str(backbone), "device": "cpu"},
            "task": {"type": "classification"},
            "method": {"type": "lora", "targets": ["query", "value", "ffn_down"]},
            "training": {"epochs": 4, "batch_size": 6, "learning_rate": 1e-2},
        }
    )


def test_a_family_from_outside_trains_saves_loads_and_serves(
    outside_folder: Path, outside: Backbone, tmp_path: Path
) -> None:
    adapter = train(recipe_of(tmp_path, outside_folder), progress=False)
    first, *_, last = adapter.training["history"]
    assert last["train_loss"] < first["train_loss"]
    store = Store(tmp_path / "store")
    store.publish(adapter, outside.geometry)
    loaded = load_adapter(store.path("t/topic"), outside)
    inputs = tokenise(outside, TEXTS, None, 50)
    assert torch.equal(logits_of(outside, loaded, inputs), logits_of(outside, adapter, inputs))
    expected = Predictor(outside, [loaded])([("t/topic", text) for text in TEXTS])
    with serving(tmp_path / "store", outside_folder) as url, Client(url) as client:
        answers = client.predict("t/topic", TEXTS)
    assert [one["label"] for one in answers] == [one["label"] for one in expected]


# PEFT's names.


def test_peft_loads_an_adapter_of_a_family_from_outside(
    tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    folder = save_outside(tiny_folder, tmp_path / "checkpoint", "renamed-bert")
    backbone = Backbone.load(str(folder), device="cpu")
    adapter = make_adapter(backbone, targets=("query", "ffn_down"), layers=(0, 2))
    save_adapter(adapter, tmp_path / "ours", backbone.geometry)
    path = tmp_path / "ours" / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config["target_modules"] == ["mixer.q", "end.down"]
    assert config["layers_pattern"] == "tower"
    path.write_text(json.dumps({**config, "task_type": None, "modules_to_save": None}))
    weights = {
        name.replace("model.renamed.", "model."): tensor
        for name, tensor in load_file(tmp_path / "ours" / "adapter_model.safetensors").items()
        if "lora" in name
    }
    save_file(weights, tmp_path / "ours" / "adapter_model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers in an old way
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path / "ours")
    for text, one in zip(TEXTS, tokenise(backbone, TEXTS, None, 50), strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt"))[0]
        logits = (
            adapter.head["classifier.weight"] @ states.mean(0) + adapter.head["classifier.bias"]
        )
        found = logits_of(backbone, adapter, [one])[0]
        torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)


def test_peft_refuses_an_adapter_of_a_fused_linear(
    tiny_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    folder = save_outside(tiny_folder, tmp_path / "checkpoint", "fused-bert")
    backbone = Backbone.load(str(folder), device="cpu")
    adapter = make_adapter(backbone, targets=("query",))
    save_adapter(adapter, tmp_path / "ours", backbone.geometry)
    loaded = load_adapter(tmp_path / "ours", backbone)
    assert torch.equal(loaded.tensors["query.a"], adapter.tensors["query.a"])
    with pytest.raises(ValueError, match=re.escape("mixer.kqv.query")):
        PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path / "ours")
