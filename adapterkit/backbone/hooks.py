"""The hooks of a frozen model: installed once, for good, and inert unless a call brings edits."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .edits import LayerEdits
from .families.base import Family
from .geometry import Geometry

ATTENTION = "adapterkit_packed"
"""Name of the packed attention among transformers' attention implementations."""

AFTER = {"attention_output": "after_attention", "ffn_down": "after_ffn"}
"""Linear site to the site in the residual stream that is the linear's output."""


class EditHooks:
    """Hooks that apply a batch's edits to the layers of one model.

    The edits of the layer being computed are kept per thread. They are set on entering a layer and
    cleared on leaving it, also when the layer raises, so nothing of one call can reach another.

    Args:
        model: The backbone.
        family: Its family.
        geometry: Its measures.
    """

    def __init__(self, model: nn.Module, family: Family, geometry: Geometry) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, _attention)
        config: Any = model.config
        config._attn_implementation = ATTENTION
        self._current = threading.local()
        linears: dict[str, list[str]] = {}
        for name, site in geometry.sites.items():
            linears.setdefault(site.path, []).append(name)
        for layer in dict.fromkeys(family.layers(model)):
            layer.register_forward_pre_hook(self._enter, with_kwargs=True)
            layer.register_forward_hook(self._leave, always_call=True)
            for path, names in linears.items():
                hook = self._linear_hook(names, geometry)
                layer.get_submodule(path).register_forward_hook(hook)
            norm = layer.get_submodule(family.norm_path)
            if family.residual_path is not None:
                residual = layer.get_submodule(family.residual_path)
                residual.register_forward_pre_hook(self._residual_hook)
            else:
                block = layer.get_submodule(geometry.sites["ffn_up"].path)
                block.register_forward_pre_hook(self._keep_residual)
                norm.register_forward_pre_hook(self._sum_hook)
            norm.register_forward_pre_hook(self._norm_hook)

    def edits_at(self, site: str) -> bool:
        """Whether the batch being computed does anything at a site of the layer being computed."""
        layer = self._layer
        return layer is not None and bool(layer.blocks.get(site))

    @property
    def _layer(self) -> LayerEdits | None:
        return getattr(self._current, "layer", None)

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._current.layer = kwargs.get("edits")

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._current.layer = self._current.residual = None

    def _linear_hook(self, names: list[str], geometry: Geometry) -> Any:
        """The hook of a linear that computes one site, or several side by side."""
        columns = {
            name: span for name in names if (span := geometry.sites[name].columns) is not None
        }
        if columns:
            return self._fused_hook(columns)
        (site,) = names
        after = AFTER.get(site)

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            layer = self._layer
            if layer is None:
                return output
            output = layer.apply(site, output, args[0])
            return output if after is None else layer.apply(after, output)

        return hook

    def _fused_hook(self, columns: Mapping[str, tuple[int, int]]) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            layer = self._layer
            if layer is None:
                return output
            for site, (first, end) in columns.items():
                if not layer.blocks.get(site):
                    continue
                part = layer.apply(site, output[..., first:end], args[0])
                if torch.is_grad_enabled():  # otherwise the edit was made in place
                    output = torch.cat((output[..., :first], part, output[..., end:]), dim=-1)
            return output

        return hook

    def _residual_hook(self, module: nn.Module, args: tuple[Tensor, Tensor]) -> Any:
        layer = self._layer
        if layer is None:
            return None
        inner, residual = args
        return inner, layer.apply("ffn_residual", residual)

    # If the layer itself sums the feed-forward block and its residual, the residual is known from
    # the first linear of the block, and the norm after it is the first module that gets the sum.

    def _keep_residual(self, module: nn.Module, args: tuple[Tensor]) -> None:
        layer = self._layer
        if layer is not None and layer.blocks.get("ffn_residual"):
            self._current.residual = args[0]

    def _sum_hook(self, module: nn.Module, args: tuple[Tensor]) -> Any:
        layer, residual = self._layer, getattr(self._current, "residual", None)
        if layer is None or residual is None:
            return None
        edited = layer.apply("ffn_residual", residual.clone())
        return (args[0] + (edited - residual),)

    def _norm_hook(self, module: Any, args: tuple[Tensor]) -> Any:
        layer = self._layer
        if layer is None:
            return None

        def normed(x: Tensor) -> Tensor:
            return F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)

        return (layer.apply("ffn_norm", args[0], read=normed),)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    edits: LayerEdits,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over a packed batch.

    Args:
        module: Not read.
        query, key, value: `[1, heads, T, d]`.
        attention_mask: Not read: the edits' plan says who attends to whom.
        edits: Of the layer.
        scaling: Factor on the scores.

    Returns:
        `[1, T, heads, d]`, and no attention weights.
    """
    heads, width = query.shape[1], query.shape[1] * query.shape[3]
    q, k, v = (x.transpose(1, 2).reshape(-1, width) for x in (query, key, value))
    out = edits.attend(q, k, v, heads, scaling)
    return out.view(1, -1, heads, width // heads), None
