"""LoRA, VeRA and (IA)^3 of AdapterHub's library, in PEFT's form."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .adapterhub_part import AdapterHubPart, check_complete
from .peft_folder import PeftFolder

READ = (
    *("r", "alpha", "composition_mode", "vera_d", "vera_b"),
    *("selfattn_lora", "intermediate_lora", "output_lora", "attn_matrices", "leave_out"),
)

ATTENTION = {"q": "query", "k": "key", "v": "value"}
"""The library's names for linears of the attention block."""

FEED_FORWARD = {"intermediate_lora": "ffn_up", "output_lora": "ffn_down"}
"""Settings that add a linear of the feed-forward block."""


def linear_folder(part: AdapterHubPart) -> PeftFolder:
    """An adapter that changes linears, in PEFT's form.

    Raises:
        ValueError: It has no exact form here.
    """
    part.check(READ)
    part.require("composition_mode", "add", "scale")
    alpha, rank = float(part.settings["alpha"]), int(part.settings["r"])
    config: dict[str, object] = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}
    tensors: dict[str, Tensor] = {}
    for path, own in part.modules.items():
        if part.settings.get("composition_mode") == "scale":
            config = {"peft_type": "IA3"}
            tensors[f"{path}.ia3_l"] = alpha * _only(own, path, "lora_B")[0]
            continue
        down, up = _product(part, path)
        if len(down) != rank:
            raise ValueError(f"'{path}': the weights have rank {len(down)}, not r = {rank}")
        tensors |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    folder = part.folder(config, tensors)
    places = {(place.layer, place.site) for path in part.modules for place in folder.places(path)}
    check_complete(places, _expected(part))
    return folder


def _product(part: AdapterHubPart, path: str) -> tuple[Tensor, Tensor]:
    """The two matrices of the change of a weight, `[r, in]` and `[out, r]`.

    The library trains VeRA's vectors (Kopiczko et al. 2023) as whole matrices, beside two random
    ones that all linears share.

    Raises:
        ValueError: A tensor is missing, does not fit, or does not belong here.
    """
    own = part.modules[path]
    if part.settings.get("vera_d") is None and part.settings.get("vera_b") is None:
        down, up = _only(own, path, "lora_A", "lora_B")
        return down, up
    inner, outer = _only(own, path, "vera_D", "vera_B")
    down, up = _only(part.shared, "shared_parameters", "lora_A", "lora_B")
    rank, width = len(down), len(up)
    if inner.shape != (rank, rank) or outer.shape != (width, width):
        raise ValueError(f"'{path}': vera_D and vera_B do not fit shared_parameters")
    return inner @ down, outer @ up


def _only(tensors: Mapping[str, Tensor], path: str, *names: str) -> tuple[Tensor, ...]:
    """Tensors of a module that has no others.

    Raises:
        ValueError: It lacks one, or has others.
    """
    if tensors.keys() != set(names):
        raise ValueError(f"'{path}' has {', '.join(sorted(tensors))}; expected {', '.join(names)}")
    return tuple(tensors[name] for name in names)


def _expected(part: AdapterHubPart) -> set[tuple[int, str]]:
    """Layers and linears that the settings name.

    Raises:
        ValueError: They name one that is not known here.
    """
    settings, sites = part.settings, []
    if settings.get("selfattn_lora", True):
        for name in settings.get("attn_matrices") or ():
            if name not in ATTENTION:
                raise ValueError(f"attn_matrices: {name!r:.80} is none of {', '.join(ATTENTION)}")
            sites.append(ATTENTION[name])
    sites += [site for name, site in FEED_FORWARD.items() if settings.get(name)]
    return {(layer, site) for layer in part.layers() for site in sites}
