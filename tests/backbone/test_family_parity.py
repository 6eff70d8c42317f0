"""Families against transformers and PEFT: padded batches, gradients, LoRA, and mixed batches."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.batching import assemble_edits
from adapterkit.backbone.families.base import family_of
from adapterkit.backbone.geometry import LINEAR_SITES
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence, pack
from adapterkit.bench.peers import peft_model
from helpers.adapters import MakeAdapter
from helpers.sequences import outputs_by_row

VOCABULARY = 90
LENGTHS = (17, 1, 40, 33, 6)
"""Tokens of the sequences of a batch; two of them are pairs."""

MODELS: dict[str, dict[str, Any]] = {
    "data2vec-text": {},
    "distilbert": {"hidden_dim": 48},
    "ernie": {"use_task_id": True, "task_type_vocab_size": 3},
}
"""The families of this test, and settings beside those of all."""

SIZES: dict[str, dict[str, int]] = {
    "narrow heads": {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3},
    "wide heads": {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2},
}
"""Heads of 8 numbers are computed by torch's attention, heads of 32 by the compiled kernel."""

every_model = pytest.mark.parametrize("model_type", MODELS)
every_size = pytest.mark.parametrize("size", SIZES)


def random_model(model_type: str, size: str) -> Any:
    """A transformers model whose weights are all large enough to change answers."""
    from transformers import AutoConfig, AutoModel

    shape = {"vocab_size": VOCABULARY, "intermediate_size": 48, "max_position_embeddings": 64}
    config = AutoConfig.for_model(model_type, **{**shape, **SIZES[size], **MODELS[model_type]})
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            else:  # fresh biases are zero and fresh norms the identity
                parameter.normal_(mean=float("norm.weight" in name.lower()), std=0.1)
    return model


@pytest.fixture(scope="module")
def checkpoints(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from a family and a size to a folder with a random model."""
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def checkpoint(model_type: str, size: str) -> Path:
        folder = root / f"{model_type} {size}"
        shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        random_model(model_type, size).save_pretrained(folder)
        return folder

    return checkpoint


def random_inputs(backbone: Backbone) -> list[TokenSequence]:
    """Sequences of `LENGTHS`, without the first ids, of which one marks padding."""
    rng, inputs = random.Random(3), []
    config: Any = backbone.model.config
    n_types = family_of(config.model_type).token_types(config)
    for number, length in enumerate(LENGTHS):
        ids = [rng.randrange(5, VOCABULARY) for _ in range(length)]
        first = length // 2 if number % 2 and n_types > 1 else length
        inputs.append(TokenSequence(ids, [0] * first + [1] * (length - first)))
    return inputs


def padded_states(model: Any, inputs: Sequence[TokenSequence]) -> Tensor:
    """Hidden states of a padded batch by transformers, one sequence after the other, `[T, h]`."""
    longest = max(map(len, inputs))
    pad = model.config.pad_token_id
    batch = {
        "input_ids": [[*one.input_ids, *[pad] * (longest - len(one))] for one in inputs],
        "attention_mask": [[1] * len(one) + [0] * (longest - len(one)) for one in inputs],
    }
    if any(map(any, (one.token_type_ids for one in inputs))):
        batch["token_type_ids"] = [
            [*one.token_type_ids, *[0] * (longest - len(one))] for one in inputs
        ]
    states = model(**{name: torch.tensor(rows) for name, rows in batch.items()}).last_hidden_state
    return torch.cat([row[: len(one)] for row, one in zip(states, inputs, strict=True)])


def packed_states(
    backbone: Backbone, inputs: Sequence[TokenSequence], adapter: Adapter | None = None
) -> Tensor:
    """Hidden states of a packed batch, in the order of the sequences, `[T, h]`."""
    owner, adapters = (-1, []) if adapter is None else (0, [adapter])
    first = backbone.geometry.first_position
    packed = pack(inputs, [owner] * len(inputs), [first] * len(inputs))
    states = backbone(packed, assemble_edits(adapters, packed, backbone.geometry)).tokens
    parts = dict(zip(packed.order, states.split(packed.lengths), strict=True))
    return torch.cat([parts[row] for row in range(len(inputs))])


@every_size
@every_model
def test_a_batch_of_texts_and_pairs_equals_transformers(
    checkpoints: Any, model_type: str, size: str
) -> None:
    backbone = Backbone.load(str(checkpoints(model_type, size)), device="cpu")
    inputs = random_inputs(backbone)
    with torch.inference_mode():
        found = packed_states(backbone, inputs)
        expected = padded_states(random_model(model_type, size), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every_size
@every_model
def test_lora_equals_peft_forward_and_backward(
    checkpoints: Any, make_adapter: MakeAdapter, model_type: str, size: str
) -> None:
    backbone = Backbone.load(str(checkpoints(model_type, size)), device="cpu")
    inputs, geometry = random_inputs(backbone), backbone.geometry
    adapter = make_adapter(backbone, "lora", r=3, alpha=3.0, targets=LINEAR_SITES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft_model(random_model(model_type, size), [adapter], backbone)
    for tensor in adapter.tensors.values():
        tensor.requires_grad_()
    found, expected = packed_states(backbone, inputs, adapter), padded_states(theirs, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for states in (found, expected):
        (states * weights).sum().backward()
    parameters = dict(theirs.named_parameters())
    for key, (name, layer) in adapter.method.file_keys(geometry, "").items():
        gradient = adapter.tensors[name].grad
        right = parameters[key.replace(".weight", ".t0.weight")].grad
        assert gradient is not None
        scale = right.abs().max()
        assert scale > 0, key
        torch.testing.assert_close(gradient[layer] / scale, right / scale, rtol=1e-5, atol=1e-5)


EVERYWHERE: list[tuple[str, dict[str, Any]]] = [
    ("head", {}),
    ("lora", {"targets": LINEAR_SITES}),
    ("lora", {"targets": ("query", "value"), "layers": (1,), "r": 3}),
    ("prefix", {"num_virtual_tokens": 4}),
    ("bottleneck", {"placement": "pfeiffer"}),
    ("bottleneck", {"placement": "houlsby"}),
    ("bottleneck", {"placement": "parallel"}),
]


@every_model
def test_a_mixed_batch_equals_every_adapter_alone(
    checkpoints: Any, make_adapter: MakeAdapter, model_type: str
) -> None:
    backbone = Backbone.load(str(checkpoints(model_type, "wide heads")), device="cpu")
    adapters = [
        make_adapter(backbone, method, name=f"t/{seed}", seed=seed, **settings)
        for seed, (method, settings) in enumerate(EVERYWHERE)
    ]
    parallel = adapters[-1]
    adapters.append(replace(make_adapter(backbone, seed=9), name="t/top", on_top_of=parallel))
    rows = [(adapter, one) for one in random_inputs(backbone) for adapter in adapters]
    with torch.inference_mode():
        mixed = outputs_by_row(backbone, rows)
        for row, found in zip(rows, mixed, strict=True):
            (alone,) = outputs_by_row(backbone, [row])
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


# A family without a reference of its own for adapters computes what a BERT with its weights does.

NAMES: dict[str, dict[str, str]] = {
    "distilbert": {
        "encoder.layer": "transformer.layer",
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    },
}
"""Modules of BERT to those of families with the same layers."""


def twin_of_bert(model_type: str, bert: Any) -> Any:
    """A model of a family that computes what a BERT computes for single texts.

    The embedding of the first token type is moved into the word embeddings, also of the BERT.
    """
    from transformers import AutoConfig, AutoModel

    config, words = bert.config, bert.embeddings.word_embeddings.weight
    types = bert.embeddings.token_type_embeddings.weight
    with torch.no_grad():
        words += types[0]
        types.zero_()
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    shape = {key: getattr(config, key) for key in (*keys, "max_position_embeddings")}
    shape |= {"hidden_dim": config.intermediate_size}
    twin = AutoModel.from_config(AutoConfig.for_model(model_type, **shape)).eval()
    weights = {}
    for name, tensor in bert.state_dict().items():
        for old, new in NAMES[model_type].items():
            name = name.replace(old, new)
        weights[name] = tensor
    left = twin.load_state_dict(weights, strict=False)
    assert not left.missing_keys
    return twin


@pytest.mark.parametrize("model_type", NAMES)
def test_every_method_equals_that_of_a_bert_with_the_same_weights(
    tiny_folder: Path, tmp_path: Path, make_adapter: MakeAdapter, model_type: str
) -> None:
    from transformers import AutoModel

    bert, backbones = AutoModel.from_pretrained(tiny_folder), []
    for folder, model in (("twin", twin_of_bert(model_type, bert)), ("bert", bert)):
        shutil.copytree(tiny_folder, tmp_path / folder)
        model.save_pretrained(tmp_path / folder)
        backbones.append(Backbone.load(str(tmp_path / folder), device="cpu"))
    inputs = [replace(one, token_type_ids=[0] * len(one)) for one in random_inputs(backbones[0])]
    for method, settings in EVERYWHERE:
        results: list[list[Tensor]] = []
        for backbone in backbones:
            adapter = make_adapter(backbones[1], method, **settings)
            leaves = [*adapter.tensors.values(), *adapter.head.values()]
            for tensor in leaves:
                tensor.requires_grad_()
            logits = torch.stack(outputs_by_row(backbone, [(adapter, one) for one in inputs]))
            (logits * torch.arange(10.0).view(5, 2)).sum().backward()
            results.append([logits, *(leaf.grad for leaf in leaves if leaf.grad is not None)])
            assert len(results[-1]) == len(leaves) + 1
        for found, expected in zip(*results, strict=True):
            scale = expected.abs().max()
            assert scale > 0
            torch.testing.assert_close(found / scale, expected / scale, rtol=1e-5, atol=1e-5)
