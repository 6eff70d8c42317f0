"""Checkpoints of randomly initialised models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save_random_bert(folder: Path, vocabulary: list[str], **changes: Any) -> Path:
    """A randomly initialised BERT with a WordPiece vocabulary, saved as a checkpoint."""
    import transformers
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    shape: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    model = BertModel(BertConfig(**{**shape, **changes}))
    for name, parameter in model.named_parameters():
        # Fresh biases are zero and fresh norms the identity; neither would test anything.
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.1)
    model.save_pretrained(folder)
    file = folder / "vocab.txt"
    file.write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer: Any = transformers.BertTokenizerFast  # type: ignore[attr-defined]
    tokenizer(vocab=str(file), do_lower_case=True).save_pretrained(folder)
    return folder
