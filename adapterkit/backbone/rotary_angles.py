"""The angles of rotary positions, from transformers' module that computes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary positions whose angles depend on the position alone. Those of the others depend on the
longest text of a batch."""


def rotary_angles(module: Any, position_ids: Tensor, *kind: str) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles of each token, float32 `[T, d / 2]` each, for `ops.rotary`.

    Args:
        module: transformers' module of rotary positions.
        position_ids: Of the tokens, int64 `[T]`.
        kind: The kind of layers, if the module has angles for several.
    """
    dtype = torch.empty(0, device=position_ids.device)  # angles are float32 in all models
    # transformers repeats the angles for the second half of a head.
    cos, sin = (part[0].chunk(2, dim=-1)[0] for part in module(dtype, position_ids[None], *kind))
    return cos, sin


def check_rotary(module: Any, config: Any, width: int, *kind: str) -> None:
    """Refuses heads and rotary positions that are not computed here.

    Args:
        module: transformers' module of rotary positions.
        config: The model's configuration.
        width: Of a head, d.
        kind: As in `rotary_angles`.

    Raises:
        ValueError: The heads are not as wide as the states, or the angles depend on more than the
            position, or are not those of whole heads.
    """
    usual = config.hidden_size // config.num_attention_heads
    if width != usual:
        raise ValueError(f"head_dim: {width} is not supported, only {usual}")
    rope_type = module.rope_type.get(kind[0]) if kind else module.rope_type
    if rope_type not in ROPE_TYPES:
        valid, layers = ", ".join(ROPE_TYPES), f" for {kind[0]}" if kind else ""
        raise ValueError(f"rope_type: expected one of {valid}{layers}, got {rope_type!r:.80}")
    if width % 2:
        raise ValueError(f"rotary positions need heads of an even width, not {width}")
    n_angles = rotary_angles(module, torch.zeros(1, dtype=torch.int64), *kind)[0].shape[1]
    if 2 * n_angles != width:
        raise ValueError(f"rotary positions of {2 * n_angles} numbers of a head of {width}")
