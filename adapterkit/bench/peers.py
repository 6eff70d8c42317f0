"""The peers that run in this process: transformers' padded batch and PEFT's mixed batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapter.adapter import Adapter
from ..backbone.load_options import LoadOptions
from ..backbone.model import Backbone
from ..backbone.packing import TokenSequence
from ..backbone.pretrained import DTYPES


@dataclass(frozen=True)
class PaddedBatch:
    """A batch in the form that the peers read, every row padded to the longest.

    Attributes:
        ids: Token ids, `[n, longest]`.
        mask: 1 where a token is real, `[n, longest]`.
    """

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[TokenSequence], device: torch.device) -> PaddedBatch:
        """Pads token ids with zeros, which the mask excludes."""
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row.input_ids)
            mask[index, : len(row)] = 1
        return cls(ids.to(device), mask.to(device))

    def beginning(self, n: int) -> PaddedBatch:
        """The first n tokens of each row."""
        return PaddedBatch(self.ids[:, :n], self.mask[:, :n])

    def through(self, model: Any, **options: Any) -> Tensor:
        """Last hidden states of a transformers model, `[n, longest, h]`."""
        output = model(input_ids=self.ids, attention_mask=self.mask, **options)
        hidden: Tensor = output.last_hidden_state
        return hidden


def plain_model(folder: Path, options: LoadOptions, device: torch.device) -> Any:
    """The backbone in transformers, without adapters; int8, which is ours alone, is left out."""
    from transformers import AutoModel, BitsAndBytesConfig

    dtype = DTYPES[options.hidden_dtype]
    arguments: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if options.uses_bitsandbytes:
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=options.quantization == "8bit",
            load_in_4bit=options.quantization == "4bit",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=["pooler"],
        )
    model: Any = AutoModel.from_pretrained(folder, **arguments)
    return model.eval()


def peft_model(plain: Any, adapters: Sequence[Adapter], backbone: Backbone) -> Any:
    """A transformers model with the same LoRA adapters in PEFT, called `t0`, `t1`, ...

    Args:
        plain: The model, which PEFT modifies.
        adapters: LoRA adapters.
        backbone: The backbone that they belong to.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    geometry, model = backbone.geometry, plain
    for index, adapter in enumerate(adapters):
        name, config = f"t{index}", LoraConfig(**adapter.method.config(geometry))
        if index == 0:
            model = get_peft_model(plain, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        state = {
            key: adapter.tensors[tensor][layer]
            for key, (tensor, layer) in adapter.method.file_keys(geometry, "").items()
        }
        set_peft_model_state_dict(model, state, adapter_name=name)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:  # PEFT creates them in float32, for training
            parameter.data = parameter.data.to(next(plain.parameters()).dtype)
    return model.eval()
