"""Bottlenecks of AdapterHub's library, those of Compacter included, in the form of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .adapterhub_part import WAY_OUT, AdapterHubPart, check_complete
from .bottleneck import ACTIVATIONS, PLACEMENTS
from .peft_folder import PeftFolder
from .places import layers_setting

MODULE = re.compile(
    r"\.(?P<layer>\d+)\.(?:(?P<attention>attention\.output|attention_adapters)|output(?:_adapters)?)"
)
"""End of a bottleneck's path: its layer, and whether it follows the attention block."""

READ = (
    *("mh_adapter", "output_adapter", "non_linearity", "scaling", "leave_out", "is_parallel"),
    *("original_ln_before", "original_ln_after", "residual_before_ln"),
    *("phm_layer", "phm_dim"),
)

IGNORED = (
    *("reduction_factor", "stochastic_depth", "cross_adapter", "inv_adapter_reduction_factor"),
    "adapter_residual_before_ln",  # only with a layer norm of its own
    *("factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule"),
    *("phm_c_init", "phm_init_range", "learn_phm", "phm_rank", "phm_bias"),
    "hypercomplex_nonlinearity",  # an initialisation in spite of its name
)
"""Settings that the tensors show by their names and shapes, or that only training reads."""

Place = tuple[int, bool]
"""A layer, and whether a bottleneck follows its attention block or its feed-forward block."""


def bottleneck_folder(part: AdapterHubPart) -> PeftFolder:
    """A bottleneck adapter in the form of ours.

    Bottlenecks of several sizes get the largest one, learned scales are multiplied into the
    weights, and a place of a layer without a bottleneck gets zeros.

    Raises:
        ValueError: It has no exact form here.
    """
    part.check(READ, IGNORED)
    placement = _placement(part)
    activation = part.activation()
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"non_linearity = {part.settings['non_linearity']!r:.80} is not known here; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    found = {_place(path): _linears(part, path) for path in part.modules}
    layers = tuple(sorted({layer for layer, _ in found}))
    size = max(len(tensors["down"]) for tensors in found.values())
    hidden = part.backbone.geometry.hidden
    shapes = {
        "down": (len(layers), size, hidden),
        "down_bias": (len(layers), size),
        "up": (len(layers), hidden, size),
        "up_bias": (len(layers), hidden),
    }
    stacked: dict[str, Tensor] = {}
    for site in PLACEMENTS[placement]:
        own = {name: torch.zeros(shape) for name, shape in shapes.items()}
        for (layer, after_attention), tensors in found.items():
            if after_attention == (site == "after_attention"):
                for name, tensor in tensors.items():
                    own[name][layers.index(layer)][tuple(map(slice, tensor.shape))] = tensor
        stacked |= {f"{site}.{name}": tensor for name, tensor in own.items()}
    scaling = part.settings.get("scaling", 1.0)
    config = {
        "peft_type": "BOTTLENECK",
        "placement": placement,
        "size": size,
        "activation": activation,
        "scaling": 1.0 if isinstance(scaling, str) else float(scaling),
        "layers": layers_setting(layers, part.backbone.geometry),
    }
    return part.folder(config, stacked)


def own_bottlenecks(part: AdapterHubPart) -> AdapterHubPart:
    """A part of a union, with no other bottlenecks than its own."""
    places = _expected(part)
    own = {path: tensors for path, tensors in part.modules.items() if _place(path) in places}
    return replace(part, modules=own)


def _expected(part: AdapterHubPart) -> set[Place]:
    """Where the settings place bottlenecks."""
    locations = {True: "mh_adapter", False: "output_adapter"}
    after = [location for location, name in locations.items() if part.settings.get(name)]
    return {(layer, location) for layer in part.layers() for location in after}


def _placement(part: AdapterHubPart) -> str:
    """The placement that computes the same.

    With y the output of a block, x its residual and A the two layers of the bottleneck, the
    library computes `LN(y + x + A(LN(y + x)))` with `original_ln_before`, `LN(y + A(y) + x)`
    without it, and `LN(y + x + A(x))` with `is_parallel`.

    Raises:
        ValueError: There is none.
    """
    part.require("original_ln_after", True)
    check_complete(map(_place, part.modules), _expected(part))
    attention = bool(part.settings.get("mh_adapter"))
    if part.settings.get("is_parallel"):
        found = "parallel"
    elif part.settings.get("original_ln_before"):
        part.require("residual_before_ln", True)
        found = "pfeiffer"
    else:
        return "houlsby"
    if attention:
        what = "is_parallel" if found == "parallel" else "original_ln_before"
        raise ValueError(f"mh_adapter = True with {what} = True has no exact form here; {WAY_OUT}")
    return found


def _place(path: str) -> Place:
    """The place of a bottleneck.

    Raises:
        ValueError: It is none that is known here.
    """
    match = MODULE.search(path)
    if match is None or match.end() != len(path):
        raise ValueError(f"there is a bottleneck at '{path}', which is no place known here")
    return int(match["layer"]), match["attention"] is not None


def _linears(part: AdapterHubPart, path: str) -> dict[str, Tensor]:
    """Weights and biases of one bottleneck, the learned scale multiplied into the second ones.

    Raises:
        ValueError: A tensor is missing, has another shape, or does not belong here.
    """
    rest = dict(part.modules[path])
    is_learned = isinstance(part.settings.get("scaling"), str)
    scale = rest.pop("scaling") if is_learned else torch.ones(1)
    down, up = (_linear(part, rest, module) for module in ("adapter_down.0", "adapter_up"))
    if rest:
        raise ValueError(f"'{path}': tensor '{next(iter(rest))}' does not belong here")
    geometry = part.backbone.geometry
    size, hidden = min(len(down[0]), geometry.intermediate), geometry.hidden
    for (weight, bias), shape in ((down, (size, hidden)), (up, (hidden, size))):
        if weight.shape != shape or bias.shape != shape[:1]:
            raise ValueError(f"'{path}': the weights are {list(weight.shape)}, expected {shape}")
    return {
        "down": down[0],
        "down_bias": down[1],
        "up": scale[:, None] * up[0],
        "up_bias": scale * up[1],
    }


def _linear(part: AdapterHubPart, rest: dict[str, Tensor], module: str) -> tuple[Tensor, Tensor]:
    """Weight `[out, in]` and bias `[out]` of one of the two layers, which are removed from `rest`.

    Raises:
        ValueError: A tensor is missing.
    """
    own = {name.removeprefix(f"{module}."): name for name in rest if name.startswith(f"{module}.")}
    tensors = {name: rest.pop(full) for name, full in own.items()}
    if not part.settings.get("phm_layer"):
        if tensors.keys() != {"weight", "bias"}:
            raise ValueError(f"{module}: expected weight and bias, found {sorted(tensors)}")
        return tensors["weight"], tensors["bias"]
    # A layer of Compacter (Mahabadi et al. 2021): its weight is a sum of Kronecker products.
    position = "down" if module.startswith("adapter_down") else "up"
    named = {name.replace(f"W_{position}", "W"): tensor for name, tensor in part.shared.items()}
    most = part.backbone.geometry.hidden * part.backbone.geometry.intermediate
    rule, factors = (_factored(named | tensors, name, most) for name in ("phm_rule", "W"))
    if rule[0].numel() * factors[0].numel() > most:
        raise ValueError(f"{module}: a product is larger than any weight of the backbone")
    weight = torch.zeros(())
    for left, right in zip(rule, factors, strict=True):
        weight = weight + torch.kron(left, right).T
    return weight, tensors.get("b", torch.zeros(len(weight)))


def _factored(tensors: Mapping[str, Tensor], name: str, most: int) -> Tensor:
    """A stack of matrices, each perhaps the product of two, `[n, rows, columns]`.

    Args:
        tensors: The tensors of a layer.
        name: Name of the stack.
        most: The most numbers that it may have.

    Raises:
        ValueError: It is missing or larger.
    """
    if name in tensors:
        return tensors[name]
    if not {f"{name}_left", f"{name}_right"} <= tensors.keys():
        raise ValueError(f"tensor '{name}' is missing")
    left, right = tensors[f"{name}_left"], tensors[f"{name}_right"]
    if left.shape[0] * left.shape[1] * right.shape[-1] > most:
        raise ValueError(f"{name}: a product is larger than any weight of the backbone")
    return left @ right
