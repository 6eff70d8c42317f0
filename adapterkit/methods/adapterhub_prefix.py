"""Prefix tuning of AdapterHub's library, in PEFT's form."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .adapterhub_part import WAY_OUT, AdapterHubPart
from .bottleneck import ACTIVATIONS
from .peft_folder import PeftFolder

READ = ("flat", "prefix_length", "non_linearity")

IGNORED = (
    "bottleneck_size",
    *("encoder_prefix", "cross_prefix"),  # of models with a decoder
    "shared_gating",  # only with a gate
)

MLP = {
    "wte.weight",
    *(f"control_trans.{n}.{part}" for n in (0, 2) for part in ("weight", "bias")),
}
"""Tensors of a prefix with an MLP."""


def prefix_folder(part: AdapterHubPart) -> PeftFolder:
    """A prefix in PEFT's form: the result of its MLP if it has one.

    In the library a text starts at position 0, as if there were no prefix.

    Raises:
        ValueError: It has no exact form here.
    """
    part.check(READ, IGNORED)  # leave_out is not read: a layer without a prefix has no form here
    geometry, length = part.backbone.geometry, int(part.settings["prefix_length"])
    if not 0 < length <= geometry.positions:
        raise ValueError(
            f"prefix_length = {length}: the backbone has {geometry.positions} positions"
        )
    tensors, is_flat = _one_copy(part), bool(part.settings.get("flat"))
    names = {"control_trans"} if is_flat else MLP
    if tensors.keys() != names:
        raise ValueError(f"the prefix has {', '.join(sorted(tensors))}; expected {sorted(names)}")
    width = geometry.layers * 2 * geometry.hidden  # of each layer keys, then values
    numbers = tensors["control_trans"] if is_flat else _through_mlp(part, tensors, width)
    if numbers.numel() != length * width:
        raise ValueError(f"the prefix has {numbers.numel()} numbers; expected {length} x {width}")
    config = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": length,
        "shift_positions": False,
    }
    return part.folder(config, {"prompt_embeddings": numbers.view(length, width)})


def _one_copy(part: AdapterHubPart) -> Mapping[str, Tensor]:
    """The tensors of the prefix, of which every layer has a copy in the file.

    Raises:
        ValueError: There are several prefixes.
    """
    found: dict[str, Tensor] = {}
    for tensors in part.modules.values():
        for key, tensor in tensors.items():
            name = key.partition(".")[2]  # after the attention block that it is for
            if not torch.equal(found.setdefault(name, tensor), tensor):
                raise ValueError("the weights file has several prefixes that differ")
    return found


def _through_mlp(part: AdapterHubPart, tensors: Mapping[str, Tensor], width: int) -> Tensor:
    """What the MLP makes of the trained embeddings, `[P, L * 2 * h]`."""
    activation = part.activation()
    if activation not in ACTIVATIONS:
        raise ValueError(f"non_linearity = {activation!r:.80} is not known here; {WAY_OUT}")
    linears = [
        (tensors[f"control_trans.{n}.weight"], tensors[f"control_trans.{n}.bias"]) for n in (0, 2)
    ]
    if len(tensors["wte.weight"]) != part.settings["prefix_length"] or len(linears[1][0]) != width:
        raise ValueError(f"the prefix's MLP does not return {width} numbers for each of its tokens")
    inner = ACTIVATIONS[activation](F.linear(tensors["wte.weight"], *linears[0]))
    return F.linear(inner, *linears[1])
