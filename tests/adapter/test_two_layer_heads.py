"""Heads of two layers in folders of PEFT answer as in PEFT, or are refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.card import CARD
from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.foreign_folder import load_foreign_adapter
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from adapterkit.export.formats import FORMATS
from adapterkit.export.verification import load_checkpoint
from helpers.peft_folders import own_outputs, peft_outputs, random_checkpoint, write_with_peft
from helpers.peft_kinds import Config, lora, tuner


def check_equal(base: Path, backbone: Backbone, folder: Path, config: Any) -> Adapter:
    model = write_with_peft(base, folder, config)
    adapter = load_foreign_adapter(folder, backbone)
    found, expected = own_outputs(adapter, backbone), peft_outputs(model, backbone)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return adapter


HEADS: list[tuple[str, list[str], str, str | None]] = [
    ("modernbert", ["Wqkv", "head", "classifier"], "cls", "gelu"),
    ("modernbert with a head", ["Wqkv", "classifier"], "pooler", None),
    ("modernbert with a head", ["Wqkv", "head", "classifier"], "mean", "gelu"),
    ("eurobert", ["q_proj", "dense", "classifier"], "cls", "gelu"),
    ("eurobert of the mean", ["v_proj", "dense", "classifier"], "mean", "gelu"),
    ("nomic_bert", ["q_proj", "pooler", "classifier"], "cls", "tanh"),
    ("gte", ["gate_proj", "pooler", "classifier"], "cls", "tanh"),
    ("jina_embeddings_v3", ["fc1", "classifier"], "cls", "tanh"),
]
"""Model types, the target of LoRA and the modules that PEFT trains, and the head that they are."""


@pytest.mark.parametrize(("family", "modules", "pooling", "activation"), HEADS)
def test_heads_of_two_layers_answer_as_in_peft(
    family: str,
    modules: list[str],
    pooling: str,
    activation: str | None,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    target, *saved = modules
    base = random_checkpoint(tiny_folder, family, tmp_path / "base")
    backbone = Backbone.load(str(base), device="cpu")
    config = lora(target_modules=[target], modules_to_save=saved)
    adapter = check_equal(base, backbone, tmp_path / "a", config("SEQ_CLS"))
    task: Any = adapter.task
    assert (task.pooling, task.hidden_activation) == (pooling, activation)
    adapter = replace(adapter, fingerprint=backbone.fingerprint)
    again = load_adapter(save_adapter(adapter, tmp_path / "out", backbone.geometry), backbone)
    assert torch.equal(own_outputs(again, backbone), own_outputs(adapter, backbone))
    if "head" in saved:  # transformers has no bias there, a head here may have one
        with pytest.raises(AdapterError, match="no task model of transformers"):
            FORMATS["merged"](adapter, backbone, tmp_path / "merged")
        return
    for name in (CARD, SUMS):
        (tmp_path / "out" / name).unlink()
    again = load_foreign_adapter(tmp_path / "out", backbone)
    assert torch.equal(own_outputs(again, backbone), own_outputs(adapter, backbone))
    plain = Backbone.load(str(base), device="cpu", prepared=False)
    model = load_checkpoint(FORMATS["merged"](adapter, plain, tmp_path / "merged"), adapter)
    expected = peft_outputs(model, backbone)
    torch.testing.assert_close(own_outputs(adapter, backbone), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "task_type", "modules", "words"),
    [
        ("modernbert", "SEQ_CLS", ["Wqkv"], "'head.dense.weight' is missing"),
        ("nomic_bert", "SEQ_CLS", ["q_proj"], r"modules_to_save=\['pooler'\]"),
        ("eurobert of late means", "SEQ_CLS", ["q_proj", "dense"], "are not known here"),
        ("modernbert with a head", "TOKEN_CLS", ["Wqkv", "head"], "are not known here"),
    ],
)
def test_other_heads_of_two_layers_are_refused(
    family: str,
    task_type: str,
    modules: list[str],
    words: str,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    target, *saved = modules
    config = lora(target_modules=[target], modules_to_save=[*saved, "classifier"])
    base = random_checkpoint(tiny_folder, family, tmp_path / "base")
    write_with_peft(base, tmp_path / "a", config(task_type))
    with pytest.raises(AdapterError, match=words):
        load_foreign_adapter(tmp_path / "a", Backbone.load(str(base), device="cpu"))


GATED = ["k_proj", "gate_proj", "down_proj"]
METHODS: list[tuple[str, Config]] = [
    ("eurobert", tuner("IA3Config", target_modules=GATED, feedforward_modules=["down_proj"])),
    ("eurobert", tuner("LNTuningConfig", target_modules=r".*layers\.[12]\.input_layernorm")),
    ("eurobert of the mean", lora(use_dora=True, target_modules=["k_proj", "gate_proj"])),
]
"""Methods on linears without biases, norms without a mean, and shared keys."""


@pytest.mark.parametrize(("family", "config"), METHODS)
def test_methods_answer_as_in_peft(
    family: str, config: Config, tiny_folder: Path, tmp_path: Path
) -> None:
    base = random_checkpoint(tiny_folder, family, tmp_path / "base")
    check_equal(base, Backbone.load(str(base), device="cpu"), tmp_path / "a", config(None))
