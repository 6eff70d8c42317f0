"""A checkpoint as a transformers model and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BackboneError
from ..quiet import drop_cast_messages, quiet_transformers
from .families.base import family_of
from .load_options import LoadOptions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(folder: Path, options: LoadOptions, device: str) -> tuple[nn.Module, Any]:
    """Loads model and tokenizer.

    Args:
        folder: A checkpoint in safetensors.
        options: Dtype and quantization of the weights.
        device: Where the model goes, such as `cpu` or `cuda:0`.

    Raises:
        BackboneError: transformers cannot load it.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    arguments: dict[str, Any] = {"dtype": DTYPES[options.hidden_dtype]}
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder)
            pooler = family_of(config.model_type).pooler_path
            if options.uses_bitsandbytes:
                arguments |= _bitsandbytes_arguments(options, device, pooler)
            model = AutoModel.from_pretrained(
                folder, config=config, use_safetensors=True, **arguments
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            text = str(error).strip()
            reason = text.splitlines()[0] if text else type(error).__name__
            message = f"{folder}: cannot be loaded as a backbone: {reason}"
            raise BackboneError(message) from error
    # Some tokenizer files pad and truncate by themselves; a packed batch needs neither.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return (model if options.uses_bitsandbytes else model.to(device)), tokenizer


def _bitsandbytes_arguments(
    options: LoadOptions, device: str, pooler: str | None
) -> dict[str, Any]:
    """Arguments by which transformers loads a model quantised by bitsandbytes."""
    from transformers import BitsAndBytesConfig

    drop_cast_messages()
    config = BitsAndBytesConfig(
        load_in_8bit=options.quantization == "8bit",
        load_in_4bit=options.quantization == "4bit",
        bnb_4bit_compute_dtype=DTYPES[options.hidden_dtype],
        llm_int8_skip_modules=[] if pooler is None else [pooler],
    )
    return {"quantization_config": config, "device_map": {"": device}}
