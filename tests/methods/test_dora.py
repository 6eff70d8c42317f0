"""DoRA beside PEFT's own: outputs, gradients and folders, both ways; and what it cannot read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.foreign_folder import load_foreign_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError, RecipeError
from adapterkit.inference.forward import forward
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.adapters import MakeAdapter
from helpers.families import save_family
from helpers.sequences import tokenise

TEXTS = ["where is my card", "a", "i want to close the account " * 4]
TARGETS = {
    "bert": ["query", "value", "output.dense"],
    "roberta": ["key", "intermediate.dense"],
    "modernbert": ["Wqkv", "Wo"],
}
every_family = pytest.mark.parametrize("family", TARGETS)


class Pair:
    """An adapter that PEFT made, in PEFT and here.

    Args:
        family: Model type of the backbone.
        root: An empty folder.
        tiny_folder: A checkpoint with the vocabulary.
        settings: Of `LoraConfig`.
    """

    def __init__(self, family: str, root: Path, tiny_folder: Path, **settings: Any) -> None:
        import peft
        from transformers import AutoModel

        self.base = save_family(root / "base", family, tiny_folder)
        self.backbone = Backbone.load(str(self.base), device="cpu")
        config = peft.LoraConfig(
            task_type="FEATURE_EXTRACTION",
            use_dora=True,
            target_modules=TARGETS[family],
            **settings,
        )
        torch.manual_seed(7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AutoModel.from_pretrained(self.base, attn_implementation="eager")
            self.model: Any = peft.get_peft_model(model, config).eval()
            with torch.no_grad():
                for parameter in self.model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
            self.model.save_pretrained(str(root / "theirs"))
        self.adapter = load_foreign_adapter(root / "theirs", self.backbone)

    def rows(self) -> list[Any]:
        return tokenise(self.backbone, TEXTS, None, 50)

    def states(self, model: Any) -> torch.Tensor:
        """The mean state of each text in a model of transformers or PEFT, `[n, h]`."""
        ids = [torch.tensor([row.input_ids]) for row in self.rows()]
        found = [model(input_ids=one, attention_mask=torch.ones_like(one)) for one in ids]
        return torch.cat([one.last_hidden_state.mean(1) for one in found])

    def own_states(self, adapter: Adapter) -> torch.Tensor:
        (piece,) = forward(self.backbone, [(adapter, row) for row in self.rows()])
        return piece.values[sorted(range(len(TEXTS)), key=lambda n: piece.rows[n])]


@every_family
def test_folders_of_peft_come_in_and_go_out_as_they_are(
    family: str, tmp_path: Path, tiny_folder: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    pair = Pair(family, tmp_path, tiny_folder, r=3, lora_alpha=5, use_rslora=family == "roberta")
    assert pair.adapter.method.type == "dora"
    assert vars(pair.adapter.method)["r"] == 3
    with torch.no_grad():
        theirs = pair.states(pair.model)
        torch.testing.assert_close(pair.own_states(pair.adapter), theirs, rtol=1e-5, atol=1e-5)
        save_adapter(pair.adapter, tmp_path / "ours", pair.backbone.geometry)
        config = json.loads((tmp_path / "ours" / CONFIG).read_text())
        assert (config["peft_type"], config["use_dora"]) == ("LORA", True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Found missing adapter keys")
            plain = AutoModel.from_pretrained(pair.base, attn_implementation="eager")
            again = PeftModel.from_pretrained(plain, tmp_path / "ours").eval()
        torch.testing.assert_close(pair.states(again), theirs, rtol=1e-5, atol=1e-5)


@every_family
def test_gradients_are_those_of_peft(family: str, tmp_path: Path, tiny_folder: Path) -> None:
    pair = Pair(family, tmp_path, tiny_folder, r=4)
    weights = torch.randn(len(TEXTS), pair.backbone.geometry.hidden)
    (pair.states(pair.model) * weights).sum().backward()
    theirs = {
        name.replace(".default", "").replace("vector.weight", "vector"): parameter.grad
        for name, parameter in pair.model.named_parameters()
        if parameter.requires_grad
    }
    for tensor in pair.adapter.tensors.values():
        tensor.requires_grad_()
    (pair.own_states(pair.adapter) * weights).sum().backward()
    keys = pair.adapter.method.file_keys(pair.backbone.geometry, "")
    assert set(keys) >= set(theirs)
    for key, expected in theirs.items():
        name, index = keys[key]
        found = pair.adapter.tensors[name].grad
        assert found is not None
        assert index is not None
        scale = expected.abs().max()
        torch.testing.assert_close(found[index] / scale, expected / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_some_linears_and_ranks_of_their_own(tmp_path: Path, tiny_folder: Path) -> None:
    pair = Pair("bert", tmp_path, tiny_folder, r=4, rank_pattern={"layer.1.*value": 2, "query": 6})
    assert pair.adapter.method.type == "dora"
    with torch.no_grad():
        theirs = pair.states(pair.model)
        torch.testing.assert_close(pair.own_states(pair.adapter), theirs, rtol=1e-5, atol=1e-5)


def test_training_starts_with_the_lengths_of_the_frozen_rows(
    tiny: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "my card,a\nthe rain,b\n" * 4)
    recipe = Recipe.of(
        {
            "name": "t/topic",
            "data": {"path": "rows.csv", "validation": 0},
            "method": {"type": "dora", "targets": ["query", "ffn_down"]},
            "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-12},
        },
        tmp_path,
    )
    adapter = train(recipe, tiny, progress=False)
    for layer in range(tiny.geometry.layers):
        for site in ("query", "ffn_down"):
            rows = tiny.frozen_weights.weight(layer, site).norm(dim=1)
            torch.testing.assert_close(adapter.tensors[f"{site}.magnitude"][layer], rows)


def test_quantised_weights_are_refused_in_one_line(
    tiny: Backbone, tmp_path: Path, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_adapter(make_adapter(tiny, "dora"), tmp_path / "saved", tiny.geometry)
    quantised = Backbone.load(tiny.name, quantization="8bit", device="cpu")
    words = "needs the frozen weights, which are quantised; load the backbone without quantization"
    with pytest.raises(AdapterError, match=words):
        load_adapter(folder, quantised)
    (tmp_path / "rows.csv").write_text("text,label\n" + "my card,a\nthe rain,b\n" * 4)
    recipe = Recipe.of(
        {
            "name": "t/topic",
            "data": {"path": "rows.csv", "validation": 0},
            "method": {"type": "dora"},
        },
        tmp_path,
    )
    with pytest.raises(RecipeError, match=words):
        train(recipe, quantised, progress=False)
