"""A checkpoint as a transformers model and tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BackboneError
from ..quiet import drop_cast_messages, quiet_transformers
from .checkpoint import Checkpoint
from .device_map import paths_of_layers, places_of_layers
from .load_options import LoadOptions
from .pretrained_tokenizer import load_tokenizer
from .shards import SHARD, Shards
from .stored_layers import store_layers
from .tensor_faults import matching_tensors, tensor_faults
from .weight_files import StoredTensor, read_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(
    checkpoint: Checkpoint, options: LoadOptions, device: str, shards: Shards | None = None
) -> tuple[nn.Module, Any]:
    """Loads model and tokenizer.

    Args:
        checkpoint: A checkpoint in safetensors.
        options: Dtype and quantization of the weights.
        device: Where the model goes, such as `cpu` or `cuda:0`.
        shards: Keeps this process's part of the layers; if omitted, layers are not divided.

    Raises:
        BackboneError: transformers cannot load it, its files contradict each other, or its weights
            are not finite.
    """
    folder, family = checkpoint.folder, checkpoint.family
    with quiet_transformers(), _refused_as_backbone(folder):
        from transformers import AutoConfig

        # No code of a checkpoint is run, and no hub is asked.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config._attn_implementation = "eager"  # replaced by `EditHooks`; a name could be a download
        config.chunk_size_feed_forward = 0  # for memory in training; no chunk divides packed rows
        model: Any = _load_model(checkpoint, config, options, device, shards)
        n_embeddings = model.get_input_embeddings().weight.shape[0]
        tokenizer = load_tokenizer(folder, n_embeddings, family.token_types(config))
    return model, tokenizer


@contextmanager
def _refused_as_backbone(folder: Path) -> Iterator[None]:
    """Turns whatever transformers and tokenizers raise about a folder into one line.

    They check few values of the files that they read, so any kind of exception can come from deep
    inside, also a panic of tokenizers' Rust code, which is no `Exception`.

    Raises:
        BackboneError: In place of any exception.
    """
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__module__ == "pyo3_runtime"
        if isinstance(error, BackboneError) or not (isinstance(error, Exception) or is_panic):
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        raise BackboneError(
            f"{folder}: cannot be loaded as a backbone: {reason:.300} ({type(error).__name__})"
        ) from error


def _load_model(
    checkpoint: Checkpoint,
    config: Any,
    options: LoadOptions,
    device: str,
    shards: Shards | None,
) -> nn.Module:
    """The model of a configuration with the checkpoint's weights, each of which must fit."""
    from transformers import AutoModel

    folder, family, weights = checkpoint.folder, checkpoint.family, checkpoint.weights
    layers, eps = family.stored_layers(config), family.norm_eps(config)
    if not 0 <= eps < math.inf:
        raise BackboneError(f"{folder}: config.json has {eps} as the epsilon of its norms")
    if layers > len(weights.backbone):  # no need to build a million of them to see what is missing
        raise BackboneError(
            f"{folder}: config.json has {layers} layers, but there are only "
            f"{len(weights.backbone)} tensors"
        )
    with torch.device("meta"):
        skeleton: Any = AutoModel.from_config(config)
    for name, module in skeleton.named_modules():
        # torch refuses other numbers, but not NaN, and only when the model is called.
        if isinstance(module, nn.Dropout) and not 0 <= module.p <= 1:
            raise BackboneError(f"{folder}: config.json has {module.p} as the dropout of '{name}'")
    expected = skeleton.state_dict()
    faults = tensor_faults(weights, expected, family)
    if faults:
        raise BackboneError(
            f"{folder}: the weights are not those of the {config.model_type} in config.json; "
            f"{'; '.join(faults)}"
        )
    arguments: dict[str, Any] = {"dtype": DTYPES[options.hidden_dtype]}
    if options.uses_bitsandbytes:
        arguments |= _bitsandbytes_arguments(options, device, family.pooler_path)
    stored = matching_tensors(weights, expected)
    # The tensors that were checked are handed over. transformers would look for files of its own.
    tensors = read_tensors(stored)
    dtype = DTYPES[options.hidden_dtype]
    for name, tensor in tensors.items():
        if not _is_finite(tensor.to(dtype)):
            raise BackboneError(
                f"{folder}: the weight '{name}' is not finite in {options.hidden_dtype}"
            )
    places: Mapping[str, str] = {}
    if shards is not None:
        places = dict.fromkeys(paths_of_layers(skeleton, family), SHARD)
    elif options.device_map is not None:
        places = places_of_layers(options.device_map, skeleton, family, device, dtype)
    if places and not family.divisible:
        raise BackboneError(
            f"{'device_map' if shards is None else 'FSDP'}: a backbone of type {config.model_type} "
            "lies on one device; leave it out"
        )
    if places:
        divided = _divided_model(config, stored, places, device, dtype)
        family.prepare(divided)
        store_layers(divided, places, stored, device, dtype, shards)
        return divided
    model: nn.Module = type(skeleton).from_pretrained(
        None, config=config, state_dict=tensors, **arguments
    )
    model = model if options.uses_bitsandbytes else model.to(device)
    family.prepare(model)
    return model


def _divided_model(
    config: Any,
    stored: Mapping[str, StoredTensor],
    places: Mapping[str, str],
    device: str,
    dtype: torch.dtype,
) -> nn.Module:
    """The model with only those weights that do not lie elsewhere; the others are meta tensors.

    Args:
        config: The model's configuration.
        stored: The weights by their names in the model.
        places: Path of each layer whose weights lie elsewhere, to their place.
        device: Where batches are computed.
        dtype: Of the weights.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModel

    with init_empty_weights(include_buffers=False):
        model: Any = AutoModel.from_config(config, dtype=dtype)
    elsewhere = tuple(f"{path}." for path in places)
    here = {name: tensor for name, tensor in stored.items() if not name.startswith(elsewhere)}
    weights = {name: tensor.to(device, dtype) for name, tensor in read_tensors(here).items()}
    for name, parameter in model.named_parameters():
        if name not in stored:  # a pooler that the checkpoint lacks; nothing reads it
            weights[name] = torch.zeros(parameter.shape, dtype=dtype, device=device)
    model.load_state_dict(weights, strict=False, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model  # type: ignore[no-any-return]  # transformers does not type it


def _is_finite(parameter: Tensor) -> bool:
    """Whether every weight is a number; those that bitsandbytes keeps as integers always are."""
    if not parameter.is_floating_point():
        return True
    # The sum, which is faster, is finite only if every weight is. It may also be too large.
    return bool(parameter.sum(dtype=torch.float32).isfinite() or parameter.isfinite().all())


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
