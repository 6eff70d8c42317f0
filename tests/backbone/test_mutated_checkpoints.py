"""Random faults in folders of backbones: each is refused, or answered as transformers answers."""

from __future__ import annotations

import json
import random
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapterkit.backbone.model import Backbone
from adapterkit.errors import BackboneError
from helpers.backbone_faults import FAULTS
from helpers.byte_level import save_byte_level_roberta
from helpers.families import MODEL_TYPES
from helpers.sequences import states_of
from helpers.time_limit import limited_time

TEXTS = ["where is my card", "a", "The CARD is lost", "my card"]
PAIRS = [None, None, None, "is lost"]
LONGEST = 16
"""At least as many tokens as any of the texts has."""


LIKE_BERT = ("bert", "roberta", "xlm-roberta", "data2vec-text", "electra", "splinter")
"""Model types with the layers of BERT."""


@pytest.fixture(scope="session")
def sound(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sound backbones: bare, a task model, in shards, a RoBERTa with byte-level tokens, and one of
    each family whose layers are others than BERT's."""
    from transformers import AutoConfig, AutoModel, BertForMaskedLM

    root = tmp_path_factory.mktemp("sound")
    folders = [root / name for name in ("bare", "head", "shards")]
    for folder in folders:
        shutil.copytree(tiny_folder, folder)
    BertForMaskedLM.from_pretrained(tiny_folder).save_pretrained(folders[1])
    (folders[2] / "model.safetensors").unlink()
    AutoModel.from_pretrained(tiny_folder).save_pretrained(folders[2], max_shard_size="20KB")
    shape: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    shape |= {"num_hidden_layers": 3, "vocab_size": 90, "max_position_embeddings": 64}
    shape |= {"initializer_range": 0.2}
    for model_type in (name for name in MODEL_TYPES if name not in LIKE_BERT):
        folders.append(root / model_type)
        shutil.copytree(tiny_folder, folders[-1], ignore=shutil.ignore_patterns("*.safetensors"))
        torch.manual_seed(5)
        config = AutoConfig.for_model(model_type, **{**shape, **MODEL_TYPES[model_type]})
        AutoModel.from_config(config).save_pretrained(folders[-1])
    return [*folders, save_byte_level_roberta(root / "roberta")]


def states_by_transformers(folder: Path) -> torch.Tensor:
    """Hidden states of the texts one after the other, `[T, h]`.

    Raises:
        AssertionError: A weight would be random, or has no effect.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation, config.chunk_size_feed_forward = "eager", 0
    config.initializer_range = 0.02  # of the weights before they are loaded; it may be negative
    with torch.device("meta"):
        kind = type(AutoModel.from_config(config))
    wrappers = rf"(?:module|model|0\.auto_model|{kind.base_model_prefix})\."
    weights = {
        re.sub(f"^(?:{wrappers})*", "", name): tensor
        for path in weight_files(folder)
        for name, tensor in load_file(path).items()
    }
    model, left = kind.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    parts = ("embeddings.", "emb_ln.", "encoder.", "transformer.", "layers.", "final_norm.")
    assert all(name.startswith("pooler.") for name in left["missing_keys"])
    assert not any(name.startswith(parts) for name in left["unexpected_keys"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.model_max_length = LONGEST  # it may be no number, and is only warned of
    found = []
    for text, pair in zip(TEXTS, PAIRS, strict=True):
        row = tokenizer(text, pair, return_tensors="pt")
        if getattr(config, "type_vocab_size", 1) == 1:
            row.pop("token_type_ids", None)
        with torch.inference_mode():
            found.append(model(**row).last_hidden_state[0])
    return torch.cat(found)


def cuts_texts(folder: Path) -> bool:
    """Whether a backbone cuts the texts; without a table of positions, transformers does not."""
    settings = json.loads((folder / "config.json").read_text())
    return bool(settings.get("max_position_embeddings", LONGEST) < LONGEST)


def weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return sorted({folder / name for name in index["weight_map"].values()})


def load_and_ask(folder: Path) -> tuple[str, torch.Tensor | None]:
    """Hidden states of the texts one after the other, or the message of the refusal."""
    with limited_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            backbone = Backbone.load(str(folder), device="cpu", prepared=False)
        except BackboneError as error:
            return str(error), None
        rows = zip(TEXTS, PAIRS, strict=True)
        return "", torch.cat([states_of(backbone, [text], [pair]) for text, pair in rows])


@pytest.mark.parametrize("n", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_a_mutated_backbone_is_refused_or_answers_as_transformers(
    sound: list[Path], tmp_path: Path, n: int, scale: float, report: Callable[[str], None]
) -> None:
    outcomes, n, wrong = Counter[str](), round(n * scale), []
    for seed in range(n):
        rng = random.Random(seed)
        folder = tmp_path / f"{seed}"
        shutil.copytree(rng.choice(sound), folder)
        fault = FAULTS[rng.choice(list(FAULTS))](folder, rng)
        try:
            outcomes[outcome_of(folder)] += 1
        except Exception as error:
            wrong.append(f"seed {seed}: {fault}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    report(f"{n} backbone folders: {dict(outcomes)}")
    assert wrong == []
    assert min(outcomes["refused"], outcomes["as transformers"]) > n // 10


def outcome_of(folder: Path) -> str:
    """What becomes of a folder: it is refused in one line, or answers as transformers does, unless
    it cuts the texts."""
    message, found = load_and_ask(folder)
    if found is None:
        assert "\n" not in message
        assert len(message) < 1500
        return "refused"
    if cuts_texts(folder):
        return "cuts texts"
    torch.testing.assert_close(found, states_by_transformers(folder), rtol=1e-4, atol=1e-4)
    return "as transformers"
