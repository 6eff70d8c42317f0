"""Parity of the methods with PEFT and with reference loops."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.backbone.checkpoint import locate
from adapterkit.backbone.geometry import LINEAR_SITES
from adapterkit.backbone.model import Backbone
from adapterkit.inference.forward import forward
from adapterkit.methods.base import methods
from helpers import reference
from helpers.adapters import MakeAdapter
from helpers.peft_reference import TEXTS, bert_for, peft_logits
from helpers.sequences import logits_of, tokenise

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("head", {}),
    ("lora", {}),
    ("lora", {"r": 3, "alpha": 5.0, "targets": LINEAR_SITES}),
    ("lora", {"r": 4, "rank_stabilised": True, "targets": ("key", "ffn_down")}),
    ("lora", {"layers": (0, 2), "targets": ("value", "ffn_up")}),
    ("dora", {}),
    ("dora", {"r": 3, "alpha": 5.0, "targets": LINEAR_SITES, "layers": (0, 2)}),
    ("biased_lora", {}),
    ("biased_lora", {"targets": ("key",), "biases": ("ffn_up", "entry"), "layers": (0, 2)}),
    ("prefix", {"num_virtual_tokens": 5}),
    ("ia3", {}),
    ("ia3", {"targets": LINEAR_SITES, "feedforward": ("attention_output",), "layers": (0, 2)}),
    ("vera", {"r": 6}),
    ("vera", {"r": 5, "targets": LINEAR_SITES, "layers": (0, 2), "projection_seed": 3}),
    ("bitfit", {}),
    ("bitfit", {"targets": ("query", "ffn_up"), "layers": (0, 2)}),
    ("ln_tuning", {}),
    ("ln_tuning", {"targets": ("ffn_layer_norm", "entry"), "layers": (1, 2)}),
    ("bottleneck", {"size": 4}),
    ("bottleneck", {"placement": "houlsby", "activation": "swish", "reduction_factor": 8.0}),
    ("bottleneck", {"placement": "parallel", "scaling": 4.0, "activation": "gelu"}),
]
PEFT_SETTINGS = [(kind, own) for kind, own in SETTINGS if methods()[kind].head_prefix]
"""Those of methods that PEFT has too."""
every = pytest.mark.parametrize(
    ("kind", "settings"), SETTINGS, ids=[f"{k}-{i}" for i, (k, _) in enumerate(SETTINGS)]
)


@every
def test_outputs_equal_the_reference_loop(
    tiny: Backbone, make_adapter: MakeAdapter, kind: str, settings: dict[str, Any]
) -> None:
    adapter = make_adapter(tiny, kind, labels=("a", "b", "c"), **settings)
    inputs = tokenise(tiny, TEXTS, None, 50)
    found = logits_of(tiny, adapter, inputs)
    plain = torch.stack([reference.logits(tiny, adapter, row) for row in inputs])
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


@every
def test_gradients_equal_the_reference_loop(
    tiny: Backbone, make_adapter: MakeAdapter, kind: str, settings: dict[str, Any]
) -> None:
    inputs, grads = tokenise(tiny, TEXTS, None, 50), []
    for fast in (True, False):
        adapter = make_adapter(tiny, kind, **settings)
        leaves = {**adapter.tensors, **adapter.head}
        for tensor in leaves.values():
            tensor.requires_grad_()
        if fast:
            (piece,) = forward(tiny, [(adapter, row) for row in inputs])
            order = sorted(range(len(inputs)), key=lambda i: piece.rows[i])
            logits = piece.values[order]
        else:
            logits = torch.stack([reference.logits(tiny, adapter, row) for row in inputs])
        (logits * torch.arange(10.0).view(5, 2)).sum().backward()
        grads.append({name: tensor.grad for name, tensor in leaves.items()})
    for name, grad in grads[0].items():
        plain = grads[1][name]
        assert grad is not None
        assert plain is not None
        scale = plain.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(grad / scale, plain / scale, rtol=1e-5, atol=1e-5)


@every
def test_a_loaded_adapter_has_the_same_outputs(
    anywhere: Backbone,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
) -> None:
    adapter = make_adapter(anywhere, kind, labels=("neutral", "好", "malo"), **settings)
    save_adapter(adapter, tmp_path / "saved", anywhere.geometry)
    again = load_adapter(tmp_path / "saved", anywhere).to(anywhere.device)
    assert (again.method, again.task, again.name) == (adapter.method, adapter.task, adapter.name)
    inputs = tokenise(anywhere, TEXTS, None, 50)
    assert torch.equal(logits_of(anywhere, adapter, inputs), logits_of(anywhere, again, inputs))


@pytest.mark.parametrize("kind", [kind for kind in reference.METHODS if kind != "prefix"])
def test_a_new_adapter_leaves_outputs_unchanged(
    tiny: Backbone, make_adapter: MakeAdapter, kind: str
) -> None:
    adapter = make_adapter(tiny, kind)
    drawn = adapter.method.init_tensors(tiny.geometry, torch.Generator().manual_seed(0))
    adapter = replace(adapter, tensors=adapter.method.begin(drawn, tiny.frozen_weights))
    for row in tokenise(tiny, TEXTS, None, 50):
        (piece,) = forward(tiny, [(adapter, row)])
        pooled = reference.hidden(tiny, None, row).mean(0)
        expected = adapter.head["classifier.weight"] @ pooled + adapter.head["classifier.bias"]
        torch.testing.assert_close(piece.values[0], expected, rtol=1e-5, atol=1e-5)


def test_lora_is_initialised_like_peft(tiny: Backbone) -> None:
    """Kaiming uniform with a = sqrt(5): uniform within 1 / sqrt(inputs); B is zero."""
    kind: Any = methods()["lora"]
    method = kind(r=32, targets=("ffn_down",))
    tensors = method.init_tensors(tiny.geometry, torch.Generator().manual_seed(0))
    a = tensors["ffn_down.a"]
    bound = tiny.geometry.intermediate**-0.5
    assert float(a.abs().max()) <= bound
    assert abs(float(a.std()) - bound / 3**0.5) < 0.03 * bound
    assert not tensors["ffn_down.b"].any()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("lora", {"r": 0}, "r: expected 1 or more, got 0"),
        ("lora", {"dropout": 1.0}, "dropout: expected 0 or more and less than 1"),
        ("lora", {"targets": ("querry",)}, "targets: expected distinct of query"),
        ("lora", {"targets": ("query", "query")}, "targets: expected distinct"),
        ("lora", {"layers": (2, 1)}, "layers: expected ascending"),
        ("ia3", {"targets": ("key", "key")}, "targets: expected distinct of query"),
        ("ia3", {"feedforward": ("key",)}, "feedforward: expected distinct of ffn_down"),
        ("vera", {"r": 0}, "r: expected 1 or more, got 0"),
        ("vera", {"projection_seed": -1}, "projection_seed: expected 0 to"),
        ("bitfit", {"targets": ("qkv",)}, "targets: expected distinct of query"),
        ("ln_tuning", {"targets": ("query",)}, "targets: expected distinct of attention_layer"),
        ("prefix", {"num_virtual_tokens": 0}, "num_virtual_tokens: expected 1 or more"),
        ("prefix", {"init_std": -1.0}, "init_std: expected 0 or more"),
        ("bottleneck", {"placement": "sideways"}, "placement: expected one of houlsby"),
        ("bottleneck", {"activation": "nope"}, "activation: expected one of relu"),
        ("bottleneck", {"size": 0}, "size: expected 1 or more"),
        ("bottleneck", {"reduction_factor": 0.0}, "reduction_factor: expected more than 0"),
    ],
)
def test_invalid_settings_are_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods()[kind](**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("lora", {"layers": (1, 3)}, "there is no layer 3; the backbone has 0 to 2"),
        ("bottleneck", {"layers": (7,)}, "there is no layer 7"),
        ("prefix", {"num_virtual_tokens": 62}, "62 leave no room for a text"),
        ("lora", {"r": 33}, "r: 33 is more than the backbone's width, 32"),
        ("bottleneck", {"size": 65}, "size: 65 is more than the backbone's widest layer, 64"),
        ("bottleneck", {"reduction_factor": 1e-300}, "is more than the backbone's widest layer"),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_refused(
    tiny: Backbone, kind: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        methods()[kind](**settings).init_tensors(tiny.geometry, torch.Generator())


def test_training_continues_from_a_folded_prefix(tiny: Backbone, make_adapter: MakeAdapter) -> None:
    kind: Any = methods()["prefix"]
    method = kind(num_virtual_tokens=4, projection=True, projection_size=6)
    generator = torch.Generator().manual_seed(0)
    tensors = method.init_tensors(tiny.geometry, generator)
    tensors = {
        name: t + 0.1 * torch.randn(t.shape, generator=generator) for name, t in tensors.items()
    }
    unfolded = replace(make_adapter(tiny, "prefix"), method=method, tensors=tensors)
    plain, folded = method.finalize(tensors)
    assert {n: tuple(t.shape) for n, t in folded.items()} == plain.shapes(tiny.geometry)
    finished = replace(unfolded, method=plain, tensors=folded)
    resumed = replace(unfolded, tensors=method.init_from(folded, tiny.geometry, generator))
    inputs = tokenise(tiny, TEXTS, None, 50)
    expected = logits_of(tiny, unfolded, inputs)
    for other in (finished, resumed):
        torch.testing.assert_close(logits_of(tiny, other, inputs), expected, rtol=1e-5, atol=1e-5)
    assert set(resumed.tensors) == set(tensors)


# Parity with PEFT, on the tiny backbone and on minilm, both ways.


@pytest.fixture(params=["tiny", "minilm"])
def source(request: pytest.FixtureRequest, tiny_folder: Path) -> tuple[Backbone, Path]:
    folder = tiny_folder if request.param == "tiny" else locate("minilm")
    return request.getfixturevalue(request.param), folder


@pytest.mark.parametrize(
    ("kind", "settings"),
    PEFT_SETTINGS,
    ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(PEFT_SETTINGS)],
)
def test_peft_loads_our_folder(
    source: tuple[Backbone, Path],
    make_adapter: MakeAdapter,
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
) -> None:
    from peft import PeftModel

    backbone, folder = source
    adapter = make_adapter(backbone, kind, labels=("a", "b", "c"), pooling="pooler", **settings)
    save_adapter(adapter, tmp_path / "ours", backbone.geometry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(bert_for(folder, 3), tmp_path / "ours").eval()
    theirs = peft_logits(model, folder, TEXTS)
    ours = logits_of(backbone, adapter, tokenise(backbone, TEXTS, None, 50))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def peft_configs() -> list[Any]:
    from peft import LoraConfig, PrefixTuningConfig

    task: Any = "SEQ_CLS"
    return [
        LoraConfig(task_type=task, r=4, lora_alpha=7, target_modules=["query", "value"]),
        LoraConfig(task_type=task, r=2, use_rslora=True, target_modules="all-linear"),
        LoraConfig(
            task_type=task, target_modules=["key", "dense"], exclude_modules=["pooler.dense"]
        ),
        LoraConfig(task_type=task, r=2, target_modules=["query"], layers_to_transform=[1]),
        PrefixTuningConfig(task_type=task, num_virtual_tokens=6),
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_folder_of_peft_is_loaded(
    source: tuple[Backbone, Path], tmp_path: Path, number: int
) -> None:
    from peft import get_peft_model

    backbone, folder = source
    config = peft_configs()[number]
    if config.peft_type == "LORA":
        config.init_lora_weights = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(bert_for(folder, 3), config).eval()
        model.save_pretrained(tmp_path / "theirs")
    adapter = load_adapter(tmp_path / "theirs", backbone, any_backbone=True)
    theirs = peft_logits(model, folder, TEXTS)
    ours = logits_of(backbone, adapter, tokenise(backbone, TEXTS, None, 50))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert getattr(adapter.task, "labels", None) == ("LABEL_0", "LABEL_1", "LABEL_2")
