"""ModernBERT against transformers, PEFT and plain loops: local layers, rotary positions, GLU."""

from __future__ import annotations

import random
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.batching import assemble_edits
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.geometry import LINEAR_SITES
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import pack
from adapterkit.errors import BackboneError
from adapterkit.inference.predictor import Predictor
from adapterkit.ops.processor import int8_max
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers import modernbert
from helpers.adapters import MakeAdapter
from helpers.folder_faults import change_json
from helpers.plain_loop import check_against_plain_loop
from helpers.sequences import logits_of, outputs_by_row, tokenise
from helpers.vocabulary import WORDS

TEXTS = ["where is my card", "a", "i want to close the account " * 12, "rain sun tea " * 9]
SIZES = {"small": modernbert.SMALL, "larger": modernbert.LARGER}


@pytest.fixture(scope="module", params=SIZES)
def folder(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A random model of each size."""
    path = tmp_path_factory.mktemp("modernbert") / request.param
    return modernbert.save_random_modernbert(path, tiny_folder, **SIZES[request.param])


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone.load(str(folder), device="cpu")


def padded(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of the texts, `[n, longest]`."""
    rows = tokenise(backbone, TEXTS, None, 200)
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, : len(row)], mask[n, : len(row)] = torch.tensor(row.input_ids), 1
    return ids, mask


def test_states_and_gradients_equal_transformers(folder: Path, backbone: Backbone) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    ids, mask = padded(backbone)
    words = model.get_input_embeddings()(ids).detach().requires_grad_()
    states = model(inputs_embeds=words, attention_mask=mask).last_hidden_state
    target = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    (states * target * mask[..., None]).sum().backward()

    rows = tokenise(backbone, TEXTS, None, 200)
    assert max(map(len, rows)) > 3 * (backbone.geometry.window or 0)
    leaves = [backbone.word_embeddings(row.input_ids).requires_grad_() for row in rows]
    inputs = [replace(row, inputs_embeds=leaf) for row, leaf in zip(rows, leaves, strict=True)]
    packed = pack(inputs, [-1] * len(inputs), [0] * len(inputs))
    found = backbone(packed, assemble_edits([], packed, backbone.frozen_weights)).tokens
    parts = dict(zip(packed.order, found.split(packed.lengths), strict=True))
    sum((parts[n] * target[n, : len(row)]).sum() for n, row in enumerate(rows)).backward()
    assert words.grad is not None
    scale = words.grad.abs().max()
    for n, row in enumerate(rows):
        own = slice(len(row))
        torch.testing.assert_close(parts[n], states[n, own], rtol=1e-5, atol=1e-5)
        gradient = leaves[n].grad
        assert gradient is not None
        torch.testing.assert_close(gradient / scale, words.grad[n, own] / scale, atol=1e-5, rtol=0)


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("lora", {"r": 3, "alpha": 2.0, "targets": (*LINEAR_SITES, "qkv")}),
    ("lora", {"layers": (1, 2), "targets": ("qkv", "ffn_up")}),
    ("prefix", {"num_virtual_tokens": 5}),
    ("bottleneck", {"size": 4}),
    ("bottleneck", {"placement": "houlsby", "activation": "swish"}),
    ("bottleneck", {"placement": "parallel", "scaling": 2.0}),
]


def stacked(backbone: Backbone, make_adapter: MakeAdapter, method: str, **settings: Any) -> Adapter:
    """An adapter on top of a prefix."""
    adapter = make_adapter(backbone, method, name="t/top", seed=3, **settings)
    below = make_adapter(backbone, "prefix", name="t/below", num_virtual_tokens=3)
    return replace(adapter, on_top_of=below)


@pytest.mark.parametrize("on_prefix", [False, True])
@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_adapters_equal_the_plain_loop(
    backbone: Backbone,
    make_adapter: MakeAdapter,
    method: str,
    settings: dict[str, Any],
    on_prefix: bool,
) -> None:
    make = (
        partial(stacked, backbone, make_adapter) if on_prefix else partial(make_adapter, backbone)
    )
    check_against_plain_loop(
        backbone,
        tokenise(backbone, TEXTS, None, 200),
        partial(make, method, **settings),
        modernbert.logits,
    )


def test_lora_equals_peft_forward_and_backward(
    folder: Path, backbone: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """The folder is written here and read by PEFT, on the same model and padded batch."""
    from peft import PeftModel
    from transformers import AutoModel

    targets = ("qkv", "attention_output", "ffn_up", "ffn_down")
    adapter = make_adapter(backbone, targets=targets, r=3, alpha=4.0)
    save_adapter(adapter, tmp_path / "ours", backbone.geometry)
    adapter = load_adapter(tmp_path / "ours", backbone)
    for tensor in adapter.tensors.values():
        tensor.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, path = AutoModel.from_pretrained(folder), str(tmp_path / "ours")
        model: Any = PeftModel.from_pretrained(plain, path, is_trainable=True).eval()
    ids, mask = padded(backbone)
    states = model.base_model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    logits = pooled @ adapter.head["classifier.weight"].T + adapter.head["classifier.bias"]
    weights = torch.arange(8.0).view(4, 2)
    (logits * weights).sum().backward()
    rows = tokenise(backbone, TEXTS, None, 200)
    found = torch.stack(outputs_by_row(backbone, [(adapter, row) for row in rows]))
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    (found * weights).sum().backward()
    named = dict(model.named_parameters())
    for key, (name, index) in adapter.method.file_keys(backbone.geometry, "").items():
        theirs = named[key.replace(".weight", ".default.weight")].grad
        ours = adapter.tensors[name].grad
        assert theirs is not None
        assert ours is not None
        scale = theirs.abs().max()
        assert scale > 0
        torch.testing.assert_close(ours[index] / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def with_head(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of each size with a head for masked language modelling."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    path = tmp_path_factory.mktemp("head") / "checkpoint"
    model = AutoModelForMaskedLM.from_pretrained(folder)
    for module in (model.head.dense, model.head.norm):
        torch.nn.init.normal_(module.weight, mean=1.0, std=0.5)
    torch.nn.init.normal_(model.decoder.bias)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(path)
    return path


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_classifier_has_the_logits_of_transformers(
    with_head: Path, tmp_path: Path, pooling: str, make_adapter: MakeAdapter
) -> None:
    """The task model classifies by dense layer, GELU and norm of the checkpoint's head."""
    from transformers import AutoModelForSequenceClassification

    folder = shutil.copytree(with_head, tmp_path / "checkpoint")
    change_json("config.json", classifier_pooling=pooling)(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    backbone = Backbone.load(str(folder), device="cpu")
    adapter = make_adapter(backbone, "head", pooling="pooler", labels=("a", "b", "c"))
    weights = {f"classifier.{name}": one for name, one in model.classifier.state_dict().items()}
    adapter = replace(adapter, head=weights)
    ids, mask = padded(backbone)
    with torch.inference_mode():
        expected = model(ids, mask).logits
        found = logits_of(backbone, adapter, tokenise(backbone, TEXTS, None, 200))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_lora_of_peft_on_the_fused_linear_is_read(
    folder: Path, backbone: Backbone, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    config = LoraConfig(target_modules=["Wqkv"], r=4, init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(AutoModel.from_pretrained(folder), config)
        model.save_pretrained(str(tmp_path / "peft"))
    adapter = load_adapter(tmp_path / "peft", backbone, any_backbone=True)
    assert adapter.method.sites == ("qkv",)
    assert torch.equal(
        adapter.tensors["qkv.a"][1],
        model.base_model.model.layers[1].attn.Wqkv.lora_A["default"].weight,
    )


def test_masked_tokens_have_the_same_probabilities(with_head: Path) -> None:
    from transformers import AutoModelForMaskedLM

    backbone = Backbone.load(str(with_head), device="cpu")
    model = AutoModelForMaskedLM.from_pretrained(with_head).eval()
    (row,) = tokenise(backbone, TEXTS[:1], None, 200)
    ids = torch.tensor(row.input_ids)
    with torch.inference_mode():
        expected = model(ids[None]).logits[0].log_softmax(-1)
        packed = pack([row], [-1], [0])
        states = backbone(packed, assemble_edits([], packed, backbone.frozen_weights)).tokens
        assert backbone.lm_head is not None
        found = backbone.lm_head.top_tokens(states, {}, ids, 1)[:, 0]
    torch.testing.assert_close(found, expected[torch.arange(len(ids)), ids], rtol=1e-5, atol=1e-5)


def test_a_mixed_batch_equals_single_rows(backbone: Backbone, make_adapter: MakeAdapter) -> None:
    rng = random.Random(5)
    adapters: list[Adapter | None] = [None]
    for seed, (method, settings) in enumerate(METHODS):
        adapters.append(make_adapter(backbone, method, name=f"t/{seed}", seed=seed, **settings))
    texts = [" ".join(rng.choices(WORDS, k=rng.choice([1, 4, 20, 90]))) for _ in range(24)]
    rows = [(rng.choice(adapters), row) for row in tokenise(backbone, texts, None, 150)]
    with torch.inference_mode():
        for row, found in zip(rows, outputs_by_row(backbone, rows), strict=True):
            (alone,) = outputs_by_row(backbone, [row])
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_it_trains_saves_loads_and_answers_quantised(
    folder: Path, backbone: Backbone, tmp_path: Path
) -> None:
    rows = [("my money and the fee", "money"), ("rain and sun", "weather")] * 12
    lines = [
        f"{text},{label},{'validation' if n % 4 == 3 else 'train'}"
        for n, (text, label) in enumerate(rows)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,split", *lines]))
    recipe = Recipe.of(
        {
            "name": "t/topic",
            "data": {"path": str(tmp_path / "rows.csv")},
            "backbone": {"model": str(folder), "device": "cpu"},
            "method": {"type": "lora", "targets": ["qkv", "ffn_up"]},
            "training": {"epochs": 3, "batch_size": 6, "learning_rate": 1e-2},
        }
    )
    adapter = train(recipe, progress=False)
    first, *_, last = adapter.training["history"]
    assert last["train_loss"] < first["train_loss"]
    store = Store(tmp_path / "store")
    store.publish(adapter, backbone.geometry)
    loaded = load_adapter(store.path("t/topic"), backbone)
    inputs = tokenise(backbone, TEXTS, None, 200)
    assert torch.equal(logits_of(backbone, loaded, inputs), logits_of(backbone, adapter, inputs))
    requests = [("t/topic", text) for text in TEXTS]
    expected = Predictor(backbone, [loaded])(requests)
    if int8_max():
        fast = Backbone.load(str(folder), quantization="int8", device="cpu")
        assert fast.fingerprint == backbone.fingerprint
        for one, other in zip(Predictor(fast, [loaded])(requests), expected, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rope_type"),
        ({"num_attention_heads": 32}, "even width"),
        ({"local_attention": -2}, "window"),
    ],
)
def test_what_is_not_computed_is_refused(
    changes: dict[str, Any], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = modernbert.save_random_modernbert(tmp_path / "m", tiny_folder)
    change_json("config.json", **changes)(folder)
    with pytest.raises(BackboneError, match=message):
        Backbone.load(str(folder), device="cpu")


def test_a_linear_of_another_family_is_no_target(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    with pytest.raises(ValueError, match="targets: the backbone has no linear 'qkv', only query"):
        make_adapter(tiny, targets=("qkv",))
