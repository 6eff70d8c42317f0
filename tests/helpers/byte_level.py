"""A random RoBERTa with a tokenizer of byte-level pairs, most of whose words begin with a space."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from helpers.vocabulary import WORDS

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def save_byte_level_roberta(folder: Path, **settings: object) -> Path:
    """Saves the model.

    Args:
        folder: The new folder.
        settings: Changes to its `tokenizer_config.json`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import RobertaConfig, RobertaModel

    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([f"i {word} the {word}" for word in WORDS] * 9, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "RobertaTokenizerFast",
        **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=False)),
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
        "add_prefix_space": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **settings}))
    torch.manual_seed(7)
    model = RobertaModel(
        RobertaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=66,
            pad_token_id=1,
            type_vocab_size=1,
            initializer_range=0.2,
        )
    )
    model.save_pretrained(folder)
    return folder
