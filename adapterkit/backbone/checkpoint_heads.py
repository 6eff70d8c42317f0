"""The heads that come with a checkpoint: its decoder of words, and its pooler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import BackboneError
from .checkpoint import Checkpoint
from .families.base import Family
from .geometry import Geometry
from .lm_head import LMHead, head_shape, transform


def lm_head_of(
    family: Family, model: Any, geometry: Geometry, checkpoint: Checkpoint
) -> LMHead | None:
    """The decoder of a checkpoint, tied to the word embeddings; None if these are narrower than the
    states.

    Raises:
        BackboneError: A tensor has a shape that does not fit.
    """
    weight = model.get_input_embeddings().weight
    if weight.shape[-1] != geometry.hidden:
        return None
    tensors = _head_tensors(checkpoint.lm_head, weight, geometry, checkpoint)
    if not family.uses_gelu(model.config):  # the head computes GELU alone
        tensors = {}
    return LMHead(weight, tensors, family.norm_eps(model.config))


def _head_tensors(
    head: Mapping[str, Tensor], embeddings: Tensor, geometry: Geometry, checkpoint: Checkpoint
) -> dict[str, Tensor]:
    """The tensors of a head beside the word embeddings, `[V, h]`.

    Raises:
        BackboneError: One has a shape that does not fit.
    """
    for name, tensor in head.items():
        expected = head_shape(name, len(embeddings), geometry.hidden)
        if tuple(tensor.shape) != expected:
            raise BackboneError(
                f"{checkpoint.folder}: the head for masked language modelling has {name} of shape "
                f"{list(tensor.shape)}, by config.json {list(expected)}"
            )
    return {name: tensor.to(embeddings.device) for name, tensor in head.items()}


def pooler_of(
    family: Family, model: Any, geometry: Geometry, checkpoint: Checkpoint
) -> Callable[[Tensor], Tensor] | None:
    """The pooler of a checkpoint, `[n, h] -> [n, h]`; None if it has none.

    Raises:
        BackboneError: A tensor has a shape that does not fit.
    """
    if checkpoint.has_pooler:
        return partial(family.pool, model)
    if not checkpoint.transform or not family.uses_gelu(model.config):
        return None
    embeddings = model.get_input_embeddings().weight
    tensors = _head_tensors(checkpoint.transform, embeddings, geometry, checkpoint)
    eps = family.norm_eps(model.config)
    return lambda states: transform(states.float(), tensors, eps).to(states.dtype)
