"""What the loader of backbones refuses, in one line, and what it reads rightly all the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterkit.backbone.families.base import families
from adapterkit.backbone.model import Backbone
from adapterkit.errors import BackboneError
from helpers.folder_faults import Fault, change_json, remove_file
from helpers.sequences import states_of

TEXTS = ["where is my card", "a", "The CARD is lost"]
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def change_weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Fault:
    def fault(folder: Path) -> None:
        tensors = change(load_file(folder / WEIGHTS))
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return fault


def prefixed(prefix: str) -> Fault:
    return change_weights(lambda old: {prefix + name: tensor for name, tensor in old.items()})


def without(*ends: str) -> Fault:
    return change_weights(
        lambda old: {name: tensor for name, tensor in old.items() if not name.endswith(ends)}
    )


def added(**tensors: Tensor) -> Fault:
    return change_weights(lambda old: {**old, **tensors})


def converted(name: str, convert: Callable[[Tensor], Tensor]) -> Fault:
    return change_weights(lambda old: {**old, name: convert(old[name]).contiguous()})


def add_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[E1]", "[E2]"])
    tokenizer.save_pretrained(folder)


def no_tokenizer(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        (folder / name).unlink()


def pipe(name: str) -> Fault:
    def fault(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return fault


def device(name: str) -> Fault:
    def fault(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    return fault


def huge(name: str) -> Fault:
    def fault(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(2**36)

    return fault


def adapter_in_folder(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def slow_tokenizer(folder: Path) -> None:
    no_tokenizer(folder)
    (folder / "vocab.txt").write_text("a 1\nb 2\n")
    (folder / "bpe.codes").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PhobertTokenizer"}')


def mark_with(change: Callable[[Any], None]) -> Fault:
    """Changes what `tokenizer.json` puts before and after a text."""

    def fault(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content["post_processor"])
        path.write_text(json.dumps(content), encoding="utf-8")
        # transformers' BertTokenizer would put its own marks in their place.
        names = ["input_ids", "token_type_ids", "attention_mask"]
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
        change_json("tokenizer_config.json", **plain)(folder)

    return fault


def other_type(processor: Any) -> None:
    processor["pair"][3]["Sequence"]["type_id"] = 5


def other_mark(processor: Any) -> None:
    processor["special_tokens"]["[CLS]"]["ids"] = [10_000]


QUERY = "encoder.layer.1.attention.self.query.weight"
JINA = {"AutoConfig": "c.JinaBertConfig", "AutoModel": "m.JinaBertModel"}

REFUSED: dict[str, tuple[Fault, str]] = {
    "alien prefix": (
        prefixed("tower."),
        r"missing: embeddings\.word_embeddings\.weight, .* and \d+ more; no tensor has a known "
        r"name; one is called 'tower\.",
    ),
    "missing tensor": (
        without("1.output.dense.bias"),
        r"missing: encoder\.layer\.1\.output\.dense",
    ),
    "half of the pooler": (without("pooler.dense.bias"), r"missing: pooler\.dense\.bias"),
    "no tensor": (change_weights(lambda _: {}), "3 layers, but there are only 0 tensors"),
    "more layers in the config": (
        change_json(CONFIG, num_hidden_layers=5),
        r"missing: encoder\.layer\.3\..* and \d+ more$",
    ),
    "a million layers in the config": (
        change_json(CONFIG, num_hidden_layers=10**9),
        "has 1000000000 layers, but there are only",
    ),
    "more layers in the file": (
        change_json(CONFIG, num_hidden_layers=2),
        r"unexpected: 'encoder\.layer\.2\..* and \d+ more$",
    ),
    "gated layers": (
        added(**{"encoder.layer.0.mlp.gated_layers.weight": torch.ones(2)}),
        r"unexpected: 'encoder\.layer\.0\.mlp\.gated_layers\.weight'",
    ),
    "shape": (
        change_json(CONFIG, intermediate_size=48),
        r"other shapes: encoder\.layer\.0\.intermediate\.dense\.weight is \[64, 32\], "
        r"by config\.json \[48, 32\], .* and \d+ more",
    ),
    "all faults at once": (
        change_weights(
            lambda old: {
                **{name: one for name, one in old.items() if name != QUERY},
                f"{QUERY}_": old[QUERY],
                "embeddings.LayerNorm.bias": torch.ones(3),
                "embeddings.LayerNorm.weight": torch.ones(32, dtype=torch.int8),
            }
        ),
        f"missing: {QUERY}; unexpected: '{QUERY}_'; other shapes: .*; dtypes other than .* is I8",
    ),
    "not a number": (
        converted(QUERY, lambda old: old * float("nan")),
        rf"the weight '{QUERY}' is not finite in float32",
    ),
    "an architecture of its own": (
        change_json(CONFIG, auto_map=JINA),
        "auto_map: 'm.JinaBertModel' is an architecture of its own, not a bert of transformers",
    ),
    "decoder": (change_json(CONFIG, is_decoder=True), "is_decoder: only encoders are supported"),
    "relative positions": (
        change_json(CONFIG, position_embedding_type="relative_key"),
        "position_embedding_type: 'relative_key' is not supported, only absolute",
    ),
    "quantised": (
        change_json(CONFIG, quantization_config={"bits": 4}),
        "quantization_config: take the weights before",
    ),
    "no heads": (change_json(CONFIG, num_attention_heads=0), "cannot be loaded as a backbone"),
    "dropout": (
        change_json(CONFIG, hidden_dropout_prob=float("nan")),
        r"config\.json has nan as the dropout of 'embeddings\.dropout'",
    ),
    "epsilon": (change_json(CONFIG, layer_norm_eps=-1.0), "has -1.0 as the epsilon of its norms"),
    "activation": (change_json(CONFIG, hidden_act="no_such"), "no_such"),
    "no family": (
        change_json(CONFIG, model_type="t5"),
        f"type 't5' are not supported; supported types are: {', '.join(sorted(families()))}$",
    ),
    "no tokenizer files": (no_tokenizer, "the tokenizer knows no words; its files, such as"),
    "more tokens than embeddings": (
        add_tokens,
        r"knows 2 tokens that the \d+ word embeddings do not have: '\[E1\]', '\[E2\]'$",
    ),
    "another token type": (mark_with(other_type), r"ids or token types .* 2 token types"),
    "another mark": (mark_with(other_mark), r"ids or token types .* word embeddings"),
    "slow tokenizer": (slow_tokenizer, "the tokenizer PhobertTokenizer is a slow one"),
    "code in the tokenizer": (
        change_json(
            "tokenizer_config.json",
            tokenizer_class="Own",
            auto_map={"AutoTokenizer": [None, "t.Own"]},
        ),
        r"tokenizer_config\.json: auto_map: .*'t\.Own'.* is a tokenizer of its own, and code of a",
    ),
    "adapter in the folder": (
        adapter_in_folder,
        "this is a PEFT adapter, not a backbone",
    ),
    "pipe as config": (pipe(CONFIG), r"config\.json: not a regular file"),
    "pipe as weights": (pipe(WEIGHTS), r"model\.safetensors: not a regular file"),
    "pipe as tokenizer": (pipe("tokenizer.json"), r"tokenizer\.json: not a regular file"),
    "pipe that transformers reads": (
        pipe("added_tokens.json"),
        r"added_tokens\.json: not a regular file",
    ),
    "device": (device("vocab.txt"), r"vocab\.txt: not a regular file"),
    "huge config": (huge(CONFIG), r"config\.json: has 68719476736 bytes, more than the 16777216"),
    "huge vocabulary": (huge("vocab.txt"), r"vocab\.txt: has 68719476736 bytes, more than"),
    "missing model type": (change_json(CONFIG, model_type=None), "of type None are not supported"),
}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny backbone's folder."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "backbone"))


@pytest.mark.parametrize("fault", REFUSED)
def test_a_faulty_backbone_is_refused_in_one_line(folder: Path, fault: str) -> None:
    damage, message = REFUSED[fault]
    damage(folder)
    with pytest.raises(BackboneError, match=message) as caught:
        Backbone.load(str(folder), device="cpu")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def same_backbone(folder: Path, right: Backbone) -> Backbone:
    """The backbone of a folder, which must compute what another one computes."""
    found = Backbone.load(str(folder), device="cpu")
    assert torch.equal(states_of(found, TEXTS), states_of(right, TEXTS))
    return found


@pytest.mark.parametrize(
    "prefix",
    ["module.", "0.auto_model.", "model.bert.", "_orig_mod.module.bert.", "model.", "bert."],
)
def test_known_prefixes_are_stripped(folder: Path, tiny: Backbone, prefix: str) -> None:
    prefixed(prefix)(folder)
    found = same_backbone(folder, tiny)
    assert found.fingerprint == tiny.fingerprint
    assert found.weights_fingerprint == tiny.weights_fingerprint


def test_a_language_model_head_of_another_shape_is_refused(folder: Path) -> None:
    from transformers import BertForMaskedLM

    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    name = "cls.predictions.transform.dense.weight"
    converted(name, lambda old: old[:5])(folder)
    with pytest.raises(BackboneError, match=r"dense\.weight of shape \[5, 32\], by .* \[32, 32\]"):
        Backbone.load(str(folder), device="cpu")


def test_a_folder_that_cannot_be_read_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(BackboneError, match=r"cannot be read \(Permission denied\)"):
        Backbone.load(str(folder), device="cpu")


def test_heads_beside_the_backbone_are_ignored(folder: Path, tiny: Backbone) -> None:
    added(**{"2.linear.weight": torch.ones(2, 2), "classifier.weight": torch.ones(2, 32)})(folder)
    assert same_backbone(folder, tiny).fingerprint == tiny.fingerprint


def test_the_weights_that_were_checked_are_the_ones_that_are_loaded(
    folder: Path, tiny: Backbone
) -> None:
    shutil.copy(folder / WEIGHTS, folder / "other.safetensors")
    converted(QUERY, lambda old: old + 1)(folder)
    shutil.move(folder / WEIGHTS, folder / "changed.safetensors")
    shutil.move(folder / "other.safetensors", folder / WEIGHTS)
    change_json(CONFIG, transformers_weights="changed.safetensors")(folder)
    same_backbone(folder, tiny)


def test_a_backbone_without_a_pooler_has_no_random_one(folder: Path, tiny: Backbone) -> None:
    without("pooler.dense.weight", "pooler.dense.bias")(folder)
    assert same_backbone(folder, tiny).pooling == "mean"


def test_a_setting_for_memory_does_not_change_answers(folder: Path, tiny: Backbone) -> None:
    change_json(CONFIG, chunk_size_feed_forward=7)(folder)
    same_backbone(folder, tiny)


def test_all_tokens_of_a_pair_have_the_only_type_there_is(folder: Path) -> None:
    name = "embeddings.token_type_embeddings.weight"
    converted(name, lambda old: old[:1])(folder)
    change_json(CONFIG, type_vocab_size=1)(folder)
    backbone = Backbone.load(str(folder), device="cpu")
    (pair,) = backbone.reader.encode(["where is"], ["my card"])
    assert pair.type_ids == [0] * 7
    assert torch.isfinite(states_of(backbone, ["where is"], ["my card"])).all()


def test_a_tokenizer_without_token_types_gives_all_tokens_the_first(folder: Path) -> None:
    names = ["input_ids", "attention_mask"]
    change_json("tokenizer_config.json", model_input_names=names)(folder)
    (pair,) = Backbone.load(str(folder), device="cpu").reader.encode(["where is"], ["my card"])
    assert set(pair.type_ids) == {0}


def test_lower_casing_is_read_from_a_folder_with_a_vocabulary_alone(
    folder: Path, tiny: Backbone
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        remove_file(name)(folder)
    found = same_backbone(folder, tiny)
    assert found.lower_case
    assert found.fingerprint == tiny.fingerprint
