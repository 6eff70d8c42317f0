"""The hooks of a frozen model: installed once, for good, and inert unless a call brings edits."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .edits import LayerEdits
from .families.base import Family
from .geometry import INPUT_SITES, Geometry

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
            self._hook_inputs_and_norms(layer, geometry)
            if family.residual_path is not None:
                residual = layer.get_submodule(family.residual_path)
                residual.register_forward_pre_hook(self._residual_hook)
            if family.norm_path is None:
                residual.register_forward_hook(self._output_hook)
                continue
            norm = layer.get_submodule(family.norm_path)
            if family.residual_path is None:
                block = layer.get_submodule(geometry.sites["ffn_up"].path)
                block.register_forward_pre_hook(self._keep_residual)
                norm.register_forward_pre_hook(self._sum_hook)
            norm.register_forward_pre_hook(self._norm_hook)

    def _hook_inputs_and_norms(self, layer: nn.Module, geometry: Geometry) -> None:
        for site, linear in INPUT_SITES.items():
            module = layer.get_submodule(geometry.sites[linear].path)
            module.register_forward_pre_hook(self._input_hook(site))
        for site, path in geometry.norms.items():
            layer.get_submodule(path).register_forward_hook(self._normed_hook(site))

    def edits_at(self, site: str) -> bool:
        """Whether the batch being computed does anything at a site of the layer being computed."""
        layer = self._layer
        return layer is not None and bool(layer.blocks.get(site))

    @property
    def _layer(self) -> LayerEdits | None:
        return getattr(self._current, "layer", None)

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        layer: LayerEdits | None = kwargs.get("edits")
        self._current.layer = layer
        if layer is None or not layer.blocks.get("entry"):
            return None
        return (layer.apply("entry", args[0]), *args[1:]), kwargs

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._current.layer = self._current.residual = None

    def _linear_hook(self, names: Sequence[str], geometry: Geometry) -> Any:
        """The hook of a linear that computes one site, several side by side, or both."""
        whole = [name for name in names if geometry.sites[name].columns is None]
        parts = sorted(
            (span, name) for name in names if (span := geometry.sites[name].columns) is not None
        )

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            layer = self._layer
            if layer is None:
                return output
            for site in whole:
                output = layer.apply(site, output, args[0])
                if (after := AFTER.get(site)) is not None:
                    output = layer.apply(after, output)
            return _apply_side_by_side(layer, parts, output, args[0]) if parts else output

        return hook

    def _input_hook(self, site: str) -> Any:
        """The hook of a linear whose input is a site."""

        def hook(module: nn.Module, args: tuple[Tensor]) -> Any:
            layer = self._layer
            return None if layer is None else (layer.apply(site, args[0]),)

        return hook

    def _normed_hook(self, site: str) -> Any:
        """The hook of a layer norm that is a site."""

        def hook(module: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
            layer = self._layer
            if layer is None or not layer.blocks.get(site):
                return output
            if isinstance(module, nn.Identity):  # its output is its input, which others read
                return layer.apply(site, output.clone(), output)

            return layer.apply(site, output, args[0], read=partial(_normed, module))

        return hook

    def _residual_hook(self, module: nn.Module, args: tuple[Tensor, Tensor]) -> Any:
        layer = self._layer
        if layer is None:
            return None
        inner, residual = args
        return inner, layer.apply("ffn_residual", residual)

    def _output_hook(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        layer = self._layer
        return output if layer is None else layer.apply("ffn_norm", output)

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


def _normed(module: Any, x: Tensor) -> Tensor:
    """What a norm returns before its own weights."""
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(x, module.normalized_shape, None, module.eps)
    return F.layer_norm(x, module.normalized_shape, None, None, module.eps)


def _apply_side_by_side(
    layer: LayerEdits, parts: Sequence[tuple[tuple[int, int], str]], y: Tensor, x: Tensor
) -> Tensor:
    """Adds the deltas of sites that are columns of one output.

    Args:
        layer: The edits of the layer.
        parts: First and past-the-last column and name of each site, in the order of the columns.
        y: The output, `[1, T, out]`.
        x: The input, `[1, T, in]`.
    """
    if not any(layer.blocks.get(site) for _, site in parts):
        return y
    if not torch.is_grad_enabled():  # then edits are made in place
        for (first, end), site in parts:
            layer.apply(site, y[..., first:end], x)
        return y
    ends = [0, *(end for span, _ in parts for end in span), y.shape[-1]]
    pieces = list(y.split([end - first for first, end in pairwise(ends)], dim=-1))
    for index, (_, site) in enumerate(parts):
        pieces[2 * index + 1] = layer.apply(site, pieces[2 * index + 1], x)
    return torch.cat(pieces, dim=-1)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    edits: LayerEdits,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over a packed batch.

    Args:
        module: Not read.
        query, key, value: `[1, heads, T, d]`.
        attention_mask: Not read: the edits' plan says who attends to whom.
        edits: Of the layer.
        scaling: Factor on the scores.
        sliding_window: Distance from which on tokens are not attended to; None for no limit.

    Returns:
        `[1, T, heads, d]`, and no attention weights.
    """
    heads, width = query.shape[1], query.shape[1] * query.shape[3]
    q, k, v = (x.transpose(1, 2).reshape(-1, width) for x in (query, key, value))
    window = None if sliding_window is None else sliding_window - 1
    out = edits.attend(q, k, v, heads, scaling, window)
    return out.view(1, -1, heads, width // heads), None
