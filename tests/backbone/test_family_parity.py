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
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from adapterkit.adapter import batching
from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.batching import assemble_edits
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.backbone import edits as edits_module
from adapterkit.backbone.families.base import family_of
from adapterkit.backbone.geometry import LINEAR_SITES
from adapterkit.backbone.load_options import LoadOptions
from adapterkit.backbone.model import Backbone
from adapterkit.backbone.packing import TokenSequence, pack
from adapterkit.errors import BackboneError
from adapterkit.inference.predictor import Predictor
from adapterkit.methods.lora import LoRA
from adapterkit.ops.bucketing import bucket_size
from adapterkit.ops.launch_table import LaunchTable
from adapterkit.training.recipe import Recipe
from adapterkit.training.train import train
from helpers.adapters import MakeAdapter
from helpers.families import MODEL_TYPES
from helpers.folder_faults import change_json
from helpers.sequences import outputs_by_row, tokenise
from helpers.vocabulary import WORDS

VOCABULARY = 90
LENGTHS = (17, 1, 40, 33, 6)
"""Tokens of the sequences of a batch; two of them are pairs."""

ELSEWHERE = ("bert", "roberta", "xlm-roberta", "electra", "modernbert")
"""Model types with tests of their own."""

MODELS: dict[str, dict[str, Any]] = {
    **{name: MODEL_TYPES[name] for name in MODEL_TYPES if name not in ELSEWHERE},
    "deberta-v2 linears of positions": {
        "relative_attention": True,
        "pos_att_type": ["p2c"],
        "type_vocab_size": 2,
        "embedding_size": 16,
    },
}
"""Model types, with a name for further ones of one type, and settings beside those of all."""

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
    model_type, settings = model_type.partition(" ")[0], MODELS[model_type]
    config = AutoConfig.for_model(model_type, **{**shape, **SIZES[size], **settings})
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative" in name:
                parameter.normal_()
            elif parameter.ndim > 1:
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
    first += 0 if adapter is None else adapter.num_virtual_tokens
    packed = pack(inputs, [owner] * len(inputs), [first] * len(inputs))
    states = backbone(packed, assemble_edits(adapters, packed, backbone.frozen_weights)).tokens
    parts = dict(zip(packed.order, states.split(packed.lengths), strict=True))
    return torch.cat([parts[row] for row in range(len(inputs))])


@every_model
def test_layers_on_disk_change_nothing(checkpoints: Any, model_type: str) -> None:
    folder = str(checkpoints(model_type, "narrow heads"))
    whole = Backbone.load(folder, device="cpu", prepared=False)
    config: Any = whole.model.config
    family = family_of(config.model_type)
    layers = family.layers(whole.model)
    paths = [name for name, module in whole.model.named_modules() if module in layers]
    on_disk = {"": "cpu", **dict.fromkeys(paths, "disk")}
    if not family.divisible:
        with pytest.raises(BackboneError, match=r"device_map: a backbone of type .* lies on one"):
            Backbone.load(folder, device="cpu", device_map=on_disk)
        return
    divided = Backbone.load(folder, device="cpu", prepared=False, device_map=on_disk)
    assert all(p.is_meta for path in paths for p in divided.model.get_submodule(path).parameters())
    inputs = random_inputs(whole)
    assert torch.equal(packed_states(divided, inputs), packed_states(whole, inputs))


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


def peft_copy(model: Any, adapter: Adapter, backbone: Backbone) -> tuple[Any, dict[Parameter, Any]]:
    """A transformers model with the weights of a LoRA adapter in PEFT.

    Returns:
        The model, and for each parameter of PEFT the name of the adapter's tensor and the layers
        that it belongs to: several if they share their weights.
    """
    from peft import LoraConfig, get_peft_model

    family, method = family_of(model.config.model_type), adapter.method
    layers, sites = family.layers(model), backbone.geometry.sites
    path_of = {module: name for name, module in model.named_modules() if module in layers}
    assert isinstance(method, LoRA)
    targets = [f"{layer}.{site.path}" for layer in path_of.values() for site in sites.values()]
    config = LoraConfig(r=method.r, lora_alpha=int(method.alpha), target_modules=targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks transformers in an old way
        theirs: Any = get_peft_model(model, config)
    owners: dict[Parameter, Any] = {}
    for layer, module in enumerate(layers):
        for site in method.targets:
            path = f"{path_of[module]}.{sites[site].path}"
            linear = theirs.base_model.model.get_submodule(path)
            for name, part in (("a", linear.lora_A), ("b", linear.lora_B)):
                parameter = part["default"].weight
                owners.setdefault(parameter, (f"{site}.{name}", []))[1].append(layer)
    for parameter, (name, shared) in owners.items():
        parameter.data = adapter.tensors[name][shared[0]].clone()
        adapter.tensors[name][shared] = parameter.data
    return theirs, owners


@every_size
@every_model
def test_lora_equals_peft_forward_and_backward(
    checkpoints: Any, make_adapter: MakeAdapter, model_type: str, size: str
) -> None:
    backbone = Backbone.load(str(checkpoints(model_type, size)), device="cpu")
    inputs = random_inputs(backbone)
    targets = tuple(backbone.geometry.sites)
    adapter = make_adapter(backbone, "lora", r=3, alpha=3.0, targets=targets)
    theirs, owners = peft_copy(random_model(model_type, size), adapter, backbone)
    for tensor in adapter.tensors.values():
        tensor.requires_grad_()
    found, expected = packed_states(backbone, inputs, adapter), padded_states(theirs, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for states in (found, expected):
        (states * weights).sum().backward()
    n_tensors = 2 * len(targets) * backbone.geometry.layers
    assert sum(len(layers) for _, layers in owners.values()) == n_tensors
    for parameter, (name, layers) in owners.items():
        gradient, right = adapter.tensors[name].grad, parameter.grad
        assert gradient is not None
        assert right is not None
        scale = right.abs().max()
        assert scale > 0, name
        ours = gradient[layers].sum(0)
        torch.testing.assert_close(ours / scale, right / scale, rtol=1e-5, atol=1e-5)
    packed_states(backbone, inputs, adapter).sum().backward()  # a second step is possible


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
    rows = [(adapter, one) for one in random_inputs(backbone)[-2:] for adapter in adapters]
    with torch.inference_mode():
        mixed = outputs_by_row(backbone, rows)
        for row, found in zip(rows, mixed, strict=True):
            (alone,) = outputs_by_row(backbone, [row])
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@every_model
def test_a_family_trains_saves_loads_and_is_quantised(
    checkpoints: Any, tmp_path: Path, model_type: str
) -> None:
    folder = checkpoints(model_type, "wide heads")
    backbone = Backbone.load(str(folder), device="cpu")
    rows = [
        {"text": text, "label": label, "split": split}
        for split in ("train", "train", "train", "validation")
        for text, label in [("my money and the fee", "money"), ("rain and sun", "weather")] * 3
    ]
    for method in ({"type": "lora", "targets": LINEAR_SITES}, {"type": "prefix"}):
        recipe = Recipe.of(
            {
                "name": f"t/{method['type']}",
                "data": {},
                "backbone": {"model": str(folder), "device": "cpu"},
                "method": method,
                "training": {"epochs": 8, "batch_size": 6, "learning_rate": 1e-2},
            }
        )
        adapter = train(recipe, rows=rows, progress=False)
        first, *_, last = adapter.training["history"]
        assert last["train_loss"] < first["train_loss"]
        save_adapter(adapter, tmp_path / adapter.name, backbone.geometry)
        requests = [(adapter.name, "the fee"), (adapter.name, "sun and rain " * 6)]
        right = Predictor(backbone, [load_adapter(tmp_path / adapter.name, backbone)])(requests)
        assert right == Predictor(backbone, [adapter])(requests)
        for options in (
            LoadOptions("float32", "int8", "cpu"),
            LoadOptions("bfloat16", "8bit", "cpu"),
            LoadOptions("bfloat16", "none", "cpu"),
        ):
            other = Backbone.load_with(str(folder), options)
            near = Predictor(other, [load_adapter(tmp_path / adapter.name, other)])(requests)
            for one, answer in zip(right, near, strict=True):
                assert answer["score"] == pytest.approx(one["score"], abs=0.1), options


# A family without a reference of its own for adapters computes what a BERT with its weights does.

NAMES: dict[str, dict[str, str]] = {
    "deberta-v2": {
        "self.query": "self.query_proj",
        "self.key": "self.key_proj",
        "self.value": "self.value_proj",
    },
    "mpnet": {
        "attention.self.query": "attention.attn.q",
        "attention.self.key": "attention.attn.k",
        "attention.self.value": "attention.attn.v",
        "attention.output.dense": "attention.attn.o",
        "attention.output": "attention",
    },
    "albert": {
        "encoder.layer.0": "encoder.albert_layer_groups.0.albert_layers.0",
        "attention.self": "attention",
        "attention.output": "attention",
        "intermediate.dense": "ffn",
        "output.dense": "ffn_output",
        "output.LayerNorm": "full_layer_layer_norm",
        "pooler.dense": "pooler",
    },
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

    The embedding of the first token type is moved into the word embeddings, and all layers get the
    weights of the first, also in the BERT.
    """
    from transformers import AutoConfig, AutoModel

    config, words = bert.config, bert.embeddings.word_embeddings.weight
    types = bert.embeddings.token_type_embeddings.weight
    with torch.no_grad():
        words += types[0]
        types.zero_()
    for layer in bert.encoder.layer[1:]:
        layer.load_state_dict(bert.encoder.layer[0].state_dict())
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    shape = {key: getattr(config, key) for key in (*keys, "max_position_embeddings")}
    shape |= {"hidden_dim": config.intermediate_size, "hidden_act": "gelu"}
    shape |= {"layer_norm_eps": config.layer_norm_eps}
    shape |= {"intermediate_size": config.intermediate_size, "embedding_size": config.hidden_size}
    twin = AutoModel.from_config(AutoConfig.for_model(model_type, **shape)).eval()
    weights = {
        "encoder.relative_attention_bias.weight": torch.zeros(32, config.num_attention_heads),
        "encoder.embedding_hidden_mapping_in.weight": torch.eye(config.hidden_size),
        "encoder.embedding_hidden_mapping_in.bias": torch.zeros(config.hidden_size),
    }
    for name, tensor in bert.state_dict().items():
        for old, new in NAMES[model_type].items():
            name = name.replace(old, new)
        weights[name] = tensor
    first = family_of(model_type).geometry(twin.config).first_position
    positions = "embeddings.position_embeddings.weight"
    weights[positions] = weights[positions].roll(first, dims=0)
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


# Layers that share their weights.


def test_shared_layers_are_held_once_in_memory(checkpoints: Any) -> None:
    folder = str(checkpoints("albert", "wide heads"))
    backbone = Backbone.load(folder, quantization="int8", device="cpu")
    plain = Backbone.load(folder, device="cpu")
    assert backbone.geometry.layers == SIZES["wide heads"]["num_hidden_layers"]
    for one in (backbone, plain):
        assert (
            len(one.linears) == len(set(one.linears)) == 6 * MODELS["albert"]["num_hidden_groups"]
        )
    inputs = random_inputs(plain)
    with torch.inference_mode():
        exact, near = (packed_states(one, inputs) for one in (plain, backbone))
    assert 0 < (near - exact).norm() / exact.norm() < 0.05


def test_an_adapter_of_shared_layers_differs_by_layer_and_that_of_peft_is_repeated(
    checkpoints: Any, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    folder = checkpoints("albert", "narrow heads")
    backbone = Backbone.load(str(folder), device="cpu")
    adapter = make_adapter(backbone, targets=("query", "ffn_down"))
    save_adapter(adapter, tmp_path / "ours", backbone.geometry)
    loaded = load_adapter(tmp_path / "ours", backbone)
    assert torch.equal(loaded.tensors["query.a"], adapter.tensors["query.a"])
    assert not torch.equal(loaded.tensors["query.a"][0], loaded.tensors["query.a"][1])
    with pytest.raises(ValueError, match="not found in the base model"):
        PeftModel.from_pretrained(random_model("albert", "narrow heads"), tmp_path / "ours")
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 2, "init_lora_weights": False}
    config = LoraConfig(target_modules=["query"], task_type="FEATURE_EXTRACTION", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks transformers in an old way
        theirs = get_peft_model(random_model("albert", "narrow heads"), config)
        theirs.save_pretrained(f"{tmp_path}/theirs")
    repeated = load_adapter(tmp_path / "theirs", backbone, any_backbone=True)
    inputs = random_inputs(backbone)
    with torch.inference_mode():
        found, expected = packed_states(backbone, inputs, repeated), padded_states(theirs, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("inner_group_num", 2, "inner_group_num: 2 is not supported, only 1"),
        ("num_hidden_layers", 10**8, "num_hidden_layers: 100000000 is more than 1000"),
    ],
)
def test_what_shared_layers_do_not_compute_is_refused(
    checkpoints: Any, tmp_path: Path, setting: str, value: int, message: str
) -> None:
    shutil.copytree(checkpoints("albert", "narrow heads"), tmp_path / "copy")
    change_json("config.json", **{setting: value})(tmp_path / "copy")
    with pytest.raises(BackboneError, match=message):
        Backbone.load(str(tmp_path / "copy"), device="cpu")


# Relative positions.


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("conv_kernel_size", 3, "conv_kernel_size: 3 is not supported, only 0"),
        ("attention_head_size", 4, "attention_head_size: 4 is not supported, only its default"),
    ],
)
def test_parts_of_deberta_that_are_not_computed_are_refused(
    checkpoints: Any, tmp_path: Path, setting: str, value: int, message: str
) -> None:
    folder = shutil.copytree(checkpoints("deberta-v2", "narrow heads"), tmp_path / "copy")
    change_json("config.json", **{setting: value})(folder)
    with pytest.raises(BackboneError, match=message):
        Backbone.load(str(folder), device="cpu")


def test_position_embeddings_that_a_deberta_does_not_read_are_accepted(
    checkpoints: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoints("deberta-v2", "narrow heads"), tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.position_embeddings.weight"] = torch.ones(64, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    right = Backbone.load(str(checkpoints("deberta-v2", "narrow heads")), device="cpu")
    found, inputs = Backbone.load(str(folder), device="cpu"), random_inputs(right)
    with torch.inference_mode():
        assert torch.equal(packed_states(found, inputs), packed_states(right, inputs))


def test_deberta_reads_its_tokenizer(checkpoints: Any, tmp_path: Path) -> None:
    import transformers
    from transformers import AutoTokenizer

    folder = shutil.copytree(checkpoints("deberta-v2", "narrow heads"), tmp_path / "copy")
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"\u2581{word}" for word in WORDS[:60]), "s"]
    vocabulary = [(piece, -float(number)) for number, piece in enumerate([*pieces, "[MASK]"])]
    transformers.DebertaV2Tokenizer(vocab=vocabulary, unk_id=3).save_pretrained(folder)
    backbone = Backbone.load(str(folder), device="cpu")
    tokenizer, texts = AutoTokenizer.from_pretrained(folder), [" ".join(WORDS[:9]), "cards x"]
    pairs: list[str | None] = [WORDS[4], None]
    for text, pair, one in zip(texts, pairs, tokenise(backbone, texts, pairs, 60), strict=True):
        assert list(one.input_ids) == tokenizer(text, pair)["input_ids"]
        assert set(one.token_type_ids) == {0}


def save_mpnet_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer with MPNet's special tokens, in place of the one that is there."""
    import transformers

    words = (folder / "vocab.txt").read_text().splitlines()
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    vocabulary = {word: number for number, word in enumerate([*names, *words[5:-1], "[UNK]"])}
    transformers.MPNetTokenizer(vocab=vocabulary).save_pretrained(folder)


def test_mpnet_and_its_tokenizer_equal_transformers(checkpoints: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = shutil.copytree(checkpoints("mpnet", "wide heads"), tmp_path / "copy")
    save_mpnet_tokenizer(folder)
    backbone = Backbone.load(str(folder), device="cpu")
    assert backbone.geometry.first_position == 2
    assert backbone.geometry.positions == 62
    tokenizer, texts = AutoTokenizer.from_pretrained(folder), ["Where is MY card?", "a", "rain sun"]
    pairs: list[str | None] = [None, "my card", None]
    inputs = tokenise(backbone, texts, pairs, 60)
    for text, pair, one in zip(texts, pairs, inputs, strict=True):
        assert list(one.input_ids) == tokenizer(text, pair)["input_ids"]
        assert set(one.token_type_ids) == {0}
    with torch.inference_mode():
        found = packed_states(backbone, inputs)
        expected = padded_states(random_model("mpnet", "wide heads"), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_fewer_distances_than_transformers_computes_are_refused(
    checkpoints: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoints("mpnet", "wide heads"), tmp_path / "copy")
    change_json("config.json", relative_attention_num_buckets=16)(folder)
    with pytest.raises(BackboneError, match="relative_attention_num_buckets: 16 is not supported"):
        Backbone.load(str(folder), device="cpu")


def test_no_number_is_added_to_the_scores_of_a_prefix(
    checkpoints: Any, make_adapter: MakeAdapter
) -> None:
    backbone = Backbone.load(str(checkpoints("mpnet", "wide heads")), device="cpu")
    inputs, model = random_inputs(backbone), random_model("mpnet", "wide heads")
    adapter = make_adapter(backbone, "prefix", num_virtual_tokens=5)
    with torch.inference_mode():
        found = packed_states(backbone, inputs, adapter).split([len(one) for one in inputs])
        for states, one in zip(found, inputs, strict=True):
            plain = states_by_loop(model, one, adapter.tensors["prefix"])
            torch.testing.assert_close(states, plain, rtol=1e-5, atol=1e-5)


def test_relative_positions_need_neither_flash_attention_nor_graphs(
    checkpoints: Any, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(str(checkpoints("mpnet", "narrow heads")), device="cpu")
    inputs, adapter = random_inputs(backbone), make_adapter(backbone, "prefix")
    with torch.inference_mode():
        expected = packed_states(backbone, inputs, adapter)
        # A batch as on a GPU, where flash attention computes other families.
        monkeypatch.setattr(edits_module, "uses_flash_attention", lambda *_: True)
        room = LaunchTable(), bucket_size(sum(LENGTHS))
        monkeypatch.setattr(batching, "launch_table_for", lambda *_: room)
        found = packed_states(backbone, inputs, adapter)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not family_of("mpnet").uses_graphs


def states_by_loop(model: Any, one: TokenSequence, prefix: Tensor) -> Tensor:
    """Hidden states of one sequence behind a prefix by an MPNet, layer after layer, `[n, h]`."""
    n, p = len(one), len(prefix)
    positions = torch.arange(2 + p, 2 + p + n)[None]
    states = model.embeddings(input_ids=torch.tensor([one.input_ids]), position_ids=positions)
    bias = model.encoder.compute_position_bias(states)[0]
    width = states.shape[-1]
    heads = model.config.num_attention_heads
    for layer, (keys, values) in zip(
        model.encoder.layer, prefix.view(p, -1, 2, width).permute(1, 2, 0, 3), strict=True
    ):
        attention, own = layer.attention.attn, states[0]
        q, k = attention.q(own), torch.cat([keys, attention.k(own)])
        v, d = torch.cat([values, attention.v(own)]), width // heads
        mixed = []
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            scores = q[:, part] @ k[:, part].T * d**-0.5
            scores[:, p:] += bias[h]
            mixed.append(scores.softmax(-1) @ v[:, part])
        states = layer.attention.LayerNorm(attention.o(torch.cat(mixed, dim=1))[None] + states)
        states = layer.output(layer.intermediate(states), states)
    found: Tensor = states[0]
    return found
