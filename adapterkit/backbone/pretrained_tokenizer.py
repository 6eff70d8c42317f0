"""The tokenizer of a checkpoint, checked against the model that reads its ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import BackboneError
from .fingerprint import probe_pairs
from .tokenizer import TextEncoder


def load_tokenizer(folder: Path, n_embeddings: int, n_types: int) -> Any:
    """The fast transformers tokenizer of a checkpoint, prepared for packed batches.

    Args:
        folder: The checkpoint.
        n_embeddings: Number of word embeddings that the model has.
        n_types: Number of token types that it has.

    Raises:
        BackboneError: It is a slow one, knows no words, or has ids that the model does not have.
        Exception: transformers or tokenizers cannot load it or read a text with it.
    """
    from transformers import AutoTokenizer

    # No code of a checkpoint is run, and no hub is asked.
    tokenizer: Any = AutoTokenizer.from_pretrained(
        folder, use_fast=True, trust_remote_code=False, local_files_only=True
    )
    if not getattr(tokenizer, "is_fast", False):
        raise BackboneError(
            f"{folder}: the tokenizer {type(tokenizer).__name__} is a slow one, written in Python; "
            "a fast one is needed, with a tokenizer.json"
        )
    # Some tokenizer files pad and truncate by themselves; a packed batch needs neither.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    if n_types < 2:  # then all tokens have one type, also those of a pair
        names = tokenizer.model_input_names
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    reader = TextEncoder(tokenizer)
    vocabulary = reader.vocabulary
    if vocabulary.keys() <= set(tokenizer.all_special_tokens):
        raise BackboneError(
            f"{folder}: the tokenizer knows no words; its files, such as tokenizer.json or "
            "vocab.txt, are missing or empty"
        )
    beyond = sorted(token for token, number in vocabulary.items() if number >= n_embeddings)
    if beyond:
        shown = ", ".join(f"{token!r:.40}" for token in beyond[:3])
        raise BackboneError(
            f"{folder}: the tokenizer knows {len(beyond)} tokens that the {n_embeddings} word "
            f"embeddings do not have: {shown}{', ...' if len(beyond) > 3 else ''}"
        )
    for encoding in reader.encode(*probe_pairs()):
        if max(encoding.ids) >= n_embeddings or max(encoding.type_ids) >= n_types:
            raise BackboneError(
                f"{folder}: the tokenizer marks texts with ids or token types that the model does "
                f"not have ({n_embeddings} word embeddings, {n_types} token types)"
            )
    return tokenizer
