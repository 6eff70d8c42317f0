"""The identity of a backbone: everything that changes answers, and nothing else."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from adapterkit.adapter import folder as adapter_folder
from adapterkit.adapter.folder import check_backbone
from adapterkit.backbone.families.base import families, family_of
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterError
from helpers.adapters import MakeAdapter
from helpers.folder_faults import Fault, change_json, remove_file

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
VERSION_0_1_0 = Path(__file__).parents[1] / "fixtures" / "version_0_1_0" / "backbone"

KNOWN = {
    "minilm": "sha256:49b0331c81675168800fbd235621be05acd629804494bedcb58b2a03ffa39936",
    "version_0_1_0": "sha256:fc9cacefa8a4171603f3d01e027939933aac76b99816451dc4773b8d6402df68",
}
"""Fingerprints that adapters have on record: they must never change."""

MINILM_0_1_0 = "sha256:d61bc379c2a4637a428b5c258c619f28186322c96e74e7b630341aeab8213613"
"""What version 0.1.0 recorded for the embedded backbone."""


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny backbone's folder."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "backbone"))


def print_of(folder: Path) -> str:
    return Backbone.load(str(folder), device="cpu", prepared=False).fingerprint


@pytest.mark.parametrize("model", KNOWN)
def test_a_fingerprint_on_record_stays_the_same(model: str) -> None:
    source = str(VERSION_0_1_0) if model == "version_0_1_0" else model
    assert Backbone.load(source, device="cpu", prepared=False).fingerprint == KNOWN[model]


def change_tokenizer(*path: str, **changes: Any) -> Fault:
    """Changes a part of `tokenizer.json`, whose path is given."""

    def fault(folder: Path) -> None:
        content = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        part = content
        for key in path:
            part = part[key]
        part.update(changes)
        (folder / TOKENIZER).write_text(json.dumps(content), encoding="utf-8")
        # transformers' BertTokenizer would read the vocabulary alone.
        names = ["input_ids", "token_type_ids", "attention_mask"]
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
        change_json("tokenizer_config.json", **plain)(folder)

    return fault


def shuffle_vocabulary(folder: Path) -> None:
    lines = (folder / "vocab.txt").read_text().splitlines()
    lines[10], lines[11] = lines[11], lines[10]
    (folder / "vocab.txt").write_text("\n".join(lines))
    remove_file(TOKENIZER)(folder)


@pytest.mark.parametrize(
    "change",
    [
        change_json(CONFIG, hidden_act="relu"),
        change_json(CONFIG, layer_norm_eps=1e-5),
        change_json(CONFIG, num_attention_heads=8),
        shuffle_vocabulary,
        change_tokenizer("normalizer", lowercase=False),
        change_tokenizer("normalizer", strip_accents=False),
        change_tokenizer("normalizer", handle_chinese_chars=False),
        change_tokenizer(pre_tokenizer={"type": "WhitespaceSplit"}),
        change_tokenizer(post_processor=None),
        change_json("tokenizer_config.json", model_input_names=["input_ids", "attention_mask"]),
    ],
)
def test_what_changes_answers_changes_the_fingerprint(
    folder: Path, tiny: Backbone, change: Fault
) -> None:
    change(folder)
    found = Backbone.load(str(folder), device="cpu", prepared=False)
    assert found.fingerprint != tiny.fingerprint
    assert found.weights_fingerprint == tiny.weights_fingerprint


def save_tokenizer_again(folder: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    remove_file("vocab.txt")(folder)


def save_with_other_metadata(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "by": "hand"})


@pytest.mark.parametrize(
    "change",
    [
        change_json(CONFIG, hidden_dropout_prob=0.3, _name_or_path="elsewhere"),
        change_tokenizer(padding=None),
        remove_file(TOKENIZER),
        save_tokenizer_again,
        save_with_other_metadata,
    ],
)
def test_other_files_with_the_same_answers_have_the_same_fingerprint(
    folder: Path, tiny: Backbone, change: Fault
) -> None:
    change(folder)
    assert print_of(folder) == tiny.fingerprint


def variants(config: Any) -> list[dict[str, Any]]:
    """A configuration as a dictionary, with one setting changed in each."""
    plain: dict[str, Any] = config.to_dict()
    found = []
    for key, value in plain.items():
        if isinstance(value, bool) or value is None:
            continue
        others: list[Any] = ["relu"] if isinstance(value, str) else []
        if isinstance(value, (int, float)):
            others = [value * 2, value * 1e6 if isinstance(value, float) else value + 1]
        found += [{**plain, key: other} for other in others]
    return found


@pytest.mark.parametrize("model_type", sorted(families()))
def test_every_setting_that_changes_states_is_in_the_fingerprint(model_type: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "vocab_size": 30,
        "pad_token_id": 0,
    }
    config, family = AutoConfig.for_model(model_type, **shape), family_of(model_type)
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    weights = {name: one.normal_(std=0.3) for name, one in model.state_dict().items()}
    model.load_state_dict(weights)
    ids = torch.tensor([[5, 6, 7, 8, 9, 6]])

    def states(model: Any) -> torch.Tensor:
        with torch.inference_mode():
            output = model(ids)
        found: torch.Tensor = getattr(output, "last_hidden_state", output)
        return found

    right, tried = states(model), 0
    for changes in variants(config):
        try:
            other = AutoModel.from_config(type(config)(**changes)).eval()
            other.load_state_dict(weights)
            found = states(other)
        except Exception:  # no model, or one with other weights
            continue
        tried += 1
        if not torch.allclose(found, right, atol=1e-4, equal_nan=True):
            changed = family.settings(other.config)
            assert changed != family.settings(config), {
                key for key in changes if changes[key] != config.to_dict()[key]
            }
    assert tried > 3


# Adapters of version 0.1.0, which record a fingerprint of the weights.


def test_an_adapter_of_version_0_1_0_is_accepted_and_reported_once(
    tiny: Backbone, make_adapter: MakeAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter_folder.report_old_fingerprint.cache_clear()
    adapter = make_adapter(tiny, "lora")
    old = replace(adapter, fingerprint=tiny.weights_fingerprint)
    with caplog.at_level(logging.INFO, logger="adapterkit"):
        check_backbone(adapter, tiny, "the adapter")
        assert not caplog.messages
        check_backbone(old, tiny, "the adapter")
        check_backbone(old, tiny, "the adapter")
    (message,) = caplog.messages
    assert "a fingerprint of its weights alone" in message


def test_an_old_adapter_of_the_embedded_backbone_is_accepted_in_silence(
    minilm: Backbone, make_adapter: MakeAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    assert minilm.weights_fingerprint == MINILM_0_1_0
    old = replace(make_adapter(minilm, "lora"), fingerprint=minilm.weights_fingerprint)
    with caplog.at_level(logging.INFO, logger="adapterkit"):
        check_backbone(old, minilm, "the adapter")
    assert not caplog.messages


def test_an_old_adapter_of_a_vocabulary_alone_is_accepted(
    folder: Path, make_adapter: MakeAdapter
) -> None:
    for name in (TOKENIZER, "tokenizer_config.json"):
        remove_file(name)(folder)
    backbone = Backbone.load(str(folder), device="cpu", prepared=False)
    old = replace(make_adapter(backbone, "lora"), fingerprint=backbone.weights_fingerprint)
    # Version 0.1.0 read lower-casing from the file that is not there.
    check_backbone(replace(old, lower_case=False), backbone, "the adapter")
    with pytest.raises(AdapterError, match="with lower-casing on"):
        check_backbone(replace(old, lower_case=True), backbone, "the adapter")


def test_an_adapter_of_another_tokenizer_is_refused(
    folder: Path, tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    shuffle_vocabulary(folder)
    other = Backbone.load(str(folder), device="cpu", prepared=False)
    with pytest.raises(AdapterError, match="was trained on"):
        check_backbone(make_adapter(tiny, "lora"), other, "the adapter")
