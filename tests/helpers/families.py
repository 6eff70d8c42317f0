"""Small random checkpoints of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

MODEL_TYPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "data2vec-text": {},
    "ernie": {"use_task_id": True, "task_type_vocab_size": 3},
    "electra": {"embedding_size": 16},
    "distilbert": {"hidden_dim": 48},
    "albert": {"embedding_size": 16, "num_hidden_groups": 2},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "max_relative_positions": 40,
        "pos_att_type": ["c2p", "p2c"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    "mpnet": {},
    "modernbert": {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 4},
    "eurobert": {
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "mask_token_id": 4,
        "num_key_value_heads": 2,
    },
    "nomic_bert": {},
    "jina_embeddings_v3": {},
    "gte": {},
    "splinter": {},
}
"""Model types, with settings beside those of size."""

SHAPE = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def save_family(
    folder: Path,
    model_type: str,
    tiny_folder: Path,
    auto: str = "AutoModel",
    **shape: int,
) -> Path:
    """A checkpoint with random weights and the tokenizer of the tiny backbone.

    Args:
        folder: The new folder.
        model_type: A key of `MODEL_TYPES`.
        tiny_folder: The tiny backbone.
        auto: transformers' class of the model that is saved.
        shape: Measures other than those of `SHAPE`.
    """
    import transformers

    vocabulary = (tiny_folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    settings = {**SHAPE, **shape, **MODEL_TYPES[model_type], "vocab_size": len(vocabulary)}
    config = transformers.AutoConfig.for_model(model_type, **settings)
    pad = config.pad_token_id  # models that count positions from it must find it there
    vocabulary[0], vocabulary[pad] = vocabulary[pad], vocabulary[0]
    folder.mkdir(parents=True)
    file = folder / "vocab.txt"
    file.write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer: Any = transformers.BertTokenizerFast  # type: ignore[attr-defined]
    tokenizer(vocab=str(file), do_lower_case=True).save_pretrained(folder)
    torch.manual_seed(5)
    model = getattr(transformers, auto).from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.85 * settings["hidden_size"] ** -0.5)
            else:  # fresh biases are zero and fresh norms the identity
                parameter.normal_(mean=float("norm.weight" in name.lower()), std=0.1)
    model.save_pretrained(folder)
    return folder
