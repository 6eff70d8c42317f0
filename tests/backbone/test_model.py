"""The packed forward without adapters against transformers; refused checkpoints and options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.batching import assemble_edits
from adapterkit.backbone.checkpoint import Checkpoint, locate
from adapterkit.backbone.embedded import EMBEDDED_FILES
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence, pack
from adapterkit.errors import BackboneError
from adapterkit.inference.forward import forward
from helpers.adapters import MakeAdapter
from helpers.sequences import tokenise
from helpers.vocabulary import WORDS

TEXTS = ["where is my card", "a", "i want to close the account please help " * 4, "rain sun tea"]


def encode(backbone: Backbone, inputs: list[TokenSequence]) -> Any:
    first = backbone.geometry.first_position
    packed = pack(inputs, [-1] * len(inputs), [first] * len(inputs))
    with torch.inference_mode():
        return backbone(packed, assemble_edits([], packed, backbone.frozen_weights))


def assert_equals_transformers(backbone: Backbone, folder: Path) -> None:
    """Packed hidden states against the padded batch of an untouched transformers model."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**batch)
    inputs = tokenise(backbone, TEXTS, None, backbone.geometry.positions)
    assert [list(i.input_ids) for i in inputs] == [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    output = encode(backbone, inputs)
    offsets = output.packed.offsets
    for index, row in enumerate(output.packed.order):
        states = output.tokens[offsets[index] : offsets[index + 1]]
        reference = expected.last_hidden_state[row, : len(inputs[row])]
        torch.testing.assert_close(states, reference, rtol=1e-5, atol=1e-5)
        if output.pooler is not None:
            pooled = output.pooled("pooler")[index]
            torch.testing.assert_close(pooled, expected.pooler_output[row], rtol=1e-5, atol=1e-5)


def test_tiny_equals_transformers(tiny: Backbone, tiny_folder: Path) -> None:
    assert_equals_transformers(tiny, tiny_folder)


def test_minilm_equals_transformers(minilm: Backbone) -> None:
    assert_equals_transformers(minilm, locate("minilm"))


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "electra", "modernbert"])
def test_every_family_equals_transformers(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len((tiny_folder / "vocab.txt").read_text().splitlines()),
        hidden_size=32,
        embedding_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        type_vocab_size=2,
        pad_token_id=0,
    )
    shutil.copytree(tiny_folder, tmp_path / "m")
    AutoModel.from_config(config).save_pretrained(tmp_path / "m")
    assert_equals_transformers(Backbone.load(str(tmp_path / "m"), device="cpu"), tmp_path / "m")


def test_training_leaves_the_backbone_unchanged(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    inputs = tokenise(tiny, TEXTS, None, 44)
    adapters = [make_adapter(tiny, kind, seed=n) for n, kind in enumerate(("lora", "prefix"))]
    for adapter in adapters:
        tensors = [t.requires_grad_() for t in adapter.tensors.values()]
        for piece in forward(tiny, [(adapter, i) for i in inputs]):
            piece.values.sum().backward()
        assert all(t.grad is not None for t in tensors)
    after = tiny.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in tiny.model.parameters())


@pytest.mark.parametrize("limit", [3, 5, 8, 17, 64])
def test_texts_are_truncated_as_by_transformers(
    tiny: Backbone, tiny_folder: Path, limit: int
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    firsts = [" ".join(WORDS[:n]) for n in (1, 4, 12, 30, 2)]
    seconds = [None, " ".join(WORDS[:12]), " ".join(WORDS[:3]), " ".join(WORDS[:29]), None]
    output = tokenise(tiny, firsts, seconds, limit)
    for first, second, row in zip(firsts, seconds, output, strict=True):
        if second is not None and limit < 5:
            continue
        expected = tokenizer(first, second, truncation="longest_first", max_length=limit)
        assert list(row.input_ids) == expected["input_ids"]
        assert list(row.token_type_ids) == expected["token_type_ids"]
        untruncated = tokenizer(first, second)["input_ids"]
        assert row.truncated == (len(untruncated) > limit)


def test_fingerprint_is_of_the_source_weights(
    tiny: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel, BertForSequenceClassification

    for dtype in ("bfloat16", "float16"):
        other = Backbone.load(str(tiny_folder), dtype=dtype, device="cpu")
        assert other.fingerprint == tiny.fingerprint
        assert next(other.model.parameters()).dtype == getattr(torch, dtype)
    task = BertForSequenceClassification.from_pretrained(tiny_folder)
    task.save_pretrained(tmp_path / "task")
    assert Checkpoint.read(tmp_path / "task").weights_fingerprint == tiny.weights_fingerprint
    changed = AutoModel.from_pretrained(tiny_folder)
    with torch.no_grad():
        changed.encoder.layer[1].output.dense.bias[3] += 1e-3
    changed.save_pretrained(tmp_path / "changed")
    assert Checkpoint.read(tmp_path / "changed").weights_fingerprint != tiny.weights_fingerprint


def test_sharded_weights_have_the_same_fingerprint(
    tiny: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(tiny_folder).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert Checkpoint.read(tmp_path).weights_fingerprint == tiny.weights_fingerprint


def test_pooling_is_read_from_the_checkpoint(tiny_folder: Path, tmp_path: Path) -> None:
    assert Checkpoint.read(locate("minilm")).pooling == "mean"
    assert Checkpoint.read(tiny_folder).pooling == "pooler"
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "1_Pooling").mkdir()
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert Checkpoint.read(tmp_path / "m").pooling == "cls"


def damage(folder: Path, fault: str) -> None:
    weights = folder / "model.safetensors"
    if fault == "no config":
        (folder / "config.json").unlink()
    elif fault == "garbled config":
        (folder / "config.json").write_text("{")
    elif fault == "deep config":
        (folder / "config.json").write_text("[" * 100_000)
    elif fault == "deep header":
        weights.write_bytes((100_000).to_bytes(8, "little") + b"[" * 100_000)
    elif fault == "other type":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    elif fault == "pickle only":
        weights.rename(folder / "pytorch_model.bin")
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "not safetensors":
        weights.write_bytes(b"\xff" * 4000)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no config", "config.json is missing"),
        ("garbled config", "not readable as JSON"),
        ("deep config", "not readable as JSON"),
        ("other type", "type 'gpt2' are not supported; supported types are: .*bert, camembert, "),
        ("pickle only", "pickled weights are never loaded"),
        ("truncated", "not a sound safetensors file"),
        ("not safetensors", "not a sound safetensors file"),
        ("deep header", "not a sound safetensors file"),
    ],
)
def test_unsound_checkpoints_are_refused(
    fault: str, message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    damage(tmp_path / "m", fault)
    with pytest.raises(BackboneError, match=message):
        Backbone.load(str(tmp_path / "m"), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "/no/such/folder"}, "no such folder"),
        ({"model": "no-such-user/no-such-model"}, "could not be downloaded from the hub"),
        ({"dtype": "float8"}, "dtype: expected one of"),
        ({"quantization": "2bit"}, "quantization: expected one of"),
        ({"device": "tpu"}, "device: expected one of"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        Backbone.load(**options)


@pytest.mark.parametrize("file", EMBEDDED_FILES)
def test_a_damaged_embedded_backbone_is_refused(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.setitem(EMBEDDED_FILES, file, "0" * 64)
    with pytest.raises(BackboneError, match=rf"damaged \(sha256 differs: {file}\); reinstall"):
        Backbone.load("minilm")
