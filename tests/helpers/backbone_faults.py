"""Random faults in the folder of a backbone: in its tensors, JSON files, bytes and entries."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Fault = Callable[[Path, random.Random], str]

WEIGHTS = "model.safetensors"
PREFIXES = ("module.", "model.", "0.auto_model.", "model.bert.", "alien.", "encoder.", "bert.bert.")
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 10**6, 10**12, 2**70, 0.5, -0.1, 1e38, float("nan"),
    float("inf"), "", "x", "gelu", "\ud800", "bert", [], [1], {}, {"a": 1}, [[]], "1",
)  # fmt: skip
"""Values that a key of a JSON file gets."""

SETTINGS: tuple[tuple[str, Any], ...] = (
    ("num_hidden_layers", 100_000_000),
    ("num_hidden_layers", 4),
    ("num_hidden_layers", 1),
    ("hidden_size", 2**40),
    ("hidden_size", 33),
    ("num_attention_heads", 3),
    ("num_attention_heads", 2),
    ("intermediate_size", 10**9),
    ("vocab_size", 10**11),
    ("vocab_size", 5),
    ("max_position_embeddings", 2**40),
    ("max_position_embeddings", 3),
    ("type_vocab_size", 1),
    ("type_vocab_size", 0),
    ("pad_token_id", 10**9),
    ("hidden_act", "relu"),
    ("hidden_act", "no_such"),
    ("layer_norm_eps", "x"),
    ("layer_norm_eps", -5),
    ("is_decoder", True),
    ("add_cross_attention", True),
    ("auto_map", {"AutoModel": "m.JinaBertModel", "AutoConfig": "c.JinaBertConfig"}),
    ("position_embedding_type", "alibi"),
    ("position_embedding_type", "relative_key"),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("transformers_weights", "other.safetensors"),
    ("chunk_size_feed_forward", 7),
    ("model_type", "modernbert"),
    ("model_type", "electra"),
    ("model_type", "distilbert"),
    ("model_type", "mpnet"),
    ("model_type", "deberta-v2"),
    ("position_buckets", 4),
    ("position_buckets", -1),
    ("max_relative_positions", 3),
    ("max_relative_positions", 64),
    ("pos_att_type", "p2c"),
    ("share_att_key", False),
    ("conv_kernel_size", 3),
    ("relative_attention", False),
    ("local_attention", 0),
    ("local_attention", -3),
    ("local_attention", 2.5),
    ("layer_types", ["full_attention"]),
    ("layer_types", ["sliding_attention", "chunked_attention", "full_attention"]),
    ("layer_types", ["sliding_attention"] * 3),
    ("rope_parameters", {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}),
    ("rope_parameters", {"full_attention": {"rope_type": "linear", "factor": 2.0}}),
    ("rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 100.0}),
    (
        "rope_parameters",
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    ),
    ("head_dim", 8),
    ("head_dim", 32),
    ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
    ("global_rope_theta", 100.0),
    ("norm_bias", True),
    ("hidden_activation", "silu"),
    ("n_layers", 100_000_000),
    ("n_heads", 3),
    ("dim", 33),
    ("activation", "relu"),
    ("num_hidden_groups", 1),
    ("num_hidden_groups", 0),
    ("inner_group_num", 2),
    ("embedding_size", 33),
    ("use_task_id", False),
    ("relative_attention_num_buckets", 8),
    ("relative_attention_num_buckets", 40),
    ("model_type", "roberta"),
    ("attn_implementation", "no/kernel"),
    ("torch_dtype", "int8"),
    ("architectures", [7]),
)
"""Settings of `config.json` that contradict the weights or what is supported."""


def _weights_of(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.glob("*.safetensors")))


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, {"format": "pt"})


def prefix_tensors(folder: Path, rng: random.Random) -> str:
    prefix = rng.choice(PREFIXES)
    for path in folder.glob("*.safetensors"):
        _save({prefix + name: tensor for name, tensor in load_file(path).items()}, path)
    return f"prefix {prefix}"


def drop_tensors(folder: Path, rng: random.Random) -> str:
    path = _weights_of(folder, rng)
    tensors = load_file(path)
    count = rng.choice([1, 1, 2, len(tensors) // 2, len(tensors)])
    names = rng.sample(sorted(tensors), min(count, len(tensors)))
    for name in names:
        del tensors[name]
    _save(tensors, path)
    return f"without {names[:2]}"


def add_tensors(folder: Path, rng: random.Random) -> str:
    path = _weights_of(folder, rng)
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    added = rng.choice(
        [f"{name}_scale", f"{name}.extra", f"heads.{name}", name.replace(".1.", ".9."), "lora.a"]
    )
    tensors.setdefault(added, torch.ones(3))
    _save(tensors, path)
    return f"with {added}"


def rename_tensor(folder: Path, rng: random.Random) -> str:
    path = _weights_of(folder, rng)
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    new = rng.choice([name.upper(), name + "_", name.replace("e", "ë"), name.replace(".", "/", 1)])
    tensors[new] = tensors.pop(name)
    _save(tensors, path)
    return f"{name} named {new}"


def reshape_tensor(folder: Path, rng: random.Random) -> str:
    path = _weights_of(folder, rng)
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    old = tensors[name]
    tensors[name] = rng.choice(
        [old.flatten(), old[:-1], old[None], old.T if old.ndim == 2 else old[:0], old.sum()]
    ).clone()
    _save(tensors, path)
    return f"{name} {list(old.shape)} as {list(tensors[name].shape)}"


def convert_tensor(folder: Path, rng: random.Random) -> str:
    path = _weights_of(folder, rng)
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    kinds = [torch.int64, torch.int8, torch.uint8, torch.bool, torch.float16, torch.float64]
    dtype = rng.choice([*kinds, torch.bfloat16, torch.float8_e4m3fn])
    tensors[name] = tensors[name].to(dtype)
    _save(tensors, path)
    return f"{name} as {dtype}"


def poison_tensor(folder: Path, rng: random.Random) -> str:
    path = _weights_of(folder, rng)
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    value = rng.choice([float("nan"), float("inf"), -float("inf")])
    tensors[name].flatten()[0] = value
    _save(tensors, path)
    return f"{name} with {value}"


def change_setting(folder: Path, rng: random.Random) -> str:
    key, value = rng.choice(SETTINGS)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    return f"config.json {key} {value}"


def _nodes(content: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON document with each of its keys, not below long lists."""
    keys: list[Any] = []
    if isinstance(content, dict):
        keys = list(content)
    elif isinstance(content, list):
        keys = list(range(len(content)))
    keys = keys[:12]
    found = [(content, key) for key in keys]
    return found + [node for key in keys for node in _nodes(content[key])]


def change_json(folder: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(folder.glob("*.json")))
    content = json.loads(path.read_text(encoding="utf-8"))
    container, key = rng.choice(_nodes(content))
    value = rng.choice([*ODD, "no value"])
    if value == "no value":
        del container[key]
    else:
        container[key] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{path.name} {key} {value!r:.40}"


def change_bytes(folder: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(file for file in folder.iterdir() if file.is_file()))
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "cut", "empty", "more", "header"])
    if kind == "flip":
        for _ in range(rng.choice([1, 10])):
            content[rng.randrange(min(len(content), 3000))] = rng.randrange(256)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "empty":
        content.clear()
    elif kind == "more":
        content += rng.randbytes(50)
    else:
        content[:8] = rng.choice([2**63, 2**31, 10**8, 8, 0, len(content)]).to_bytes(8, "little")
    path.write_bytes(content)
    return f"{path.name} {kind}"


def change_entry(folder: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(file for file in folder.iterdir() if file.is_file()))
    kind = rng.choice(["fifo", "folder", "missing", "dangling", "loop", "sparse", "device"])
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("no-such-file")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(2**36)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    return f"{path.name} {kind}"


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        prefix_tensors, drop_tensors, add_tensors, rename_tensor, reshape_tensor, convert_tensor,
        poison_tensor, change_setting, change_json, change_bytes, change_entry,
    )
}  # fmt: skip

FOLDER_FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        prefix_tensors, drop_tensors, add_tensors, rename_tensor, reshape_tensor, convert_tensor,
        poison_tensor, change_json, change_bytes, change_entry,
    )
}  # fmt: skip
"""Those that every folder with tensors and JSON files can have, also that of an adapter."""
